"""Whether texts of one label lie together, by k-means on embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from torch import Tensor, nn

from explorer.evaluation._api import LABEL, Example, Row, task_kind
from explorer.evaluation._correlations import no_relation
from explorer.evaluation._metrics import TaskMetric
from explorer.evaluation._texts import TEXT, encoded, padded, pooled, text_problem, token_vectors
from explorer.params import Choice, Range


def _v_measure(outcomes: np.ndarray) -> float:
    """V-measure 2 I / (H(clusters) + H(labels)) of outcomes [n, 2], a cluster and a label each; 1 where both are one.

    I is their mutual information: homogeneity is I / H(labels), completeness I / H(clusters).
    """
    columns = outcomes[:, 1].max() + 1
    together = np.bincount(outcomes[:, 0] * columns + outcomes[:, 1])
    each = [_entropy(c) for c in (np.bincount(outcomes[:, 0]), np.bincount(outcomes[:, 1]), together)]
    return float(np.clip(2 * (each[0] + each[1] - each[2]) / (each[0] + each[1]), 0, 1)) if each[0] + each[1] else 1.0


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


@task_kind(
    title="Clustering",
    needs=("tokenizer",),
    fields=(TEXT, LABEL),
    metric=TaskMetric("V-measure", _v_measure),
    chance=no_relation,
)
def clustering(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: None,
    *,
    max_length: Annotated[int, Range(1, 8192), "tokens of a text that are read; the rest is cut off"] = 128,
    pooling: Annotated[str, Choice("mean", "cls"), "how token vectors become one text vector"] = "mean",
) -> Tensor:
    """Embeds texts; k-means then finds as many clusters as there are labels, and the score is their V-measure.

    e(x), [n, hidden]; e as in similarity. Clusters are those of the examples answered so far, by scikit-learn's k-means
    from ten fixed starts; V = 2 h c / (h + c) of homogeneity and completeness, in [0, 1]. The interval takes the
    clusters as given. Embeddings that are not finite count as 0. Raises as similarity.
    Paper: Rosenberg and Hirschberg, V-measure, 2007.
    """
    return pooled(token_vectors(module, batch, "clustering"), batch["attention_mask"], pooling)


@clustering.prepare
def _(rows: Sequence[Row], tokenizer: Any, parameters: Mapping[str, Any]) -> list[Example]:
    return encoded([row["text"] for row in rows], [None] * len(rows), tokenizer, parameters["max_length"])


@clustering.collate
def _(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
    return padded([e.values for e in examples], tokenizer)


@clustering.problem
def _(row: Row) -> str | None:
    return text_problem(row, "text")


@clustering.predict
def _(outputs: Tensor, tokenizer: Any, parameters: Mapping[str, Any]) -> np.ndarray:
    return outputs.float().cpu().numpy()


@clustering.outcomes
def _(answers: np.ndarray, right: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
    from sklearn.cluster import KMeans

    known = np.where(np.isfinite(answers), answers, 0.0).astype(np.float64)
    wanted = min(len(np.unique(right)), len(np.unique(known, axis=0)))
    clusters = KMeans(wanted, n_init=10, random_state=0).fit(known).labels_
    return np.stack([clusters, right], axis=1)


@clustering.words
def _(answer: Any, labels: Sequence[str]) -> str:
    return labels[int(answer)] if np.ndim(answer) == 0 else ""
