"""Finding the documents that answer a query, by the cosine of embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from explorer.evaluation._api import Example, Field, Row, task_kind
from explorer.evaluation._correlations import no_relation
from explorer.evaluation._metrics import mean_metric
from explorer.evaluation._ranking import ndcg
from explorer.evaluation._texts import encoded, padded, pooled, text_problem, token_vectors
from explorer.params import Choice, Range

PLACES = 10
_FIELDS = (
    Field("query", "text", "what is asked for", ("query", "question", "anchor")),
    Field("positive", "texts", "the documents that answer it", ("positive", "positives", "pos", "relevant")),
    Field("negative", "texts", "documents that do not", ("negative", "negatives", "neg", "irrelevant")),
)


@task_kind(
    title="Retrieval", needs=("tokenizer",), fields=_FIELDS, metric=mean_metric(f"nDCG@{PLACES}"), chance=no_relation
)
def retrieval(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: None,
    *,
    max_length: Annotated[int, Range(1, 8192), "tokens of a text that are read; the rest is cut off"] = 128,
    pooling: Annotated[str, Choice("mean", "cls"), "how token vectors become one text vector"] = "mean",
) -> Tensor:
    """Ranks each query's own candidate documents by the cosine of their embeddings with the query's.

    e(query) · e(document), [n, documents], NaN beyond a query's last; e as in similarity. Candidates are the positive
    documents and then the negative ones; the order is no hint, since equal cosines share their places. Scored by
    nDCG@10, the mean over queries. A task's queries may have different numbers of documents. Raises as similarity.
    """
    texts = {k: v for k, v in batch.items() if k != "texts"}
    vectors = pooled(token_vectors(module, texts, "retrieval"), batch["attention_mask"], pooling)
    each = vectors.split(batch["texts"].tolist())
    return nn.utils.rnn.pad_sequence([v[1:] @ v[0] for v in each], batch_first=True, padding_value=float("nan"))


@retrieval.prepare
def _(rows: Sequence[Row], tokenizer: Any, parameters: Mapping[str, Any]) -> list[Example]:
    groups = [[row["query"], *row["positive"], *row["negative"]] for row in rows]
    texts = [text for group in groups for text in group]
    each = iter(encoded(texts, [None] * len(texts), tokenizer, parameters["max_length"]))
    examples = []
    for group in groups:
        own = [next(each) for _ in group]
        examples.append(Example(tuple(e.values for e in own), len(own) * max(e.size for e in own)))
    return examples


@retrieval.collate
def _(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
    texts = padded([text for e in examples for text in e.values], tokenizer)
    return {**texts, "texts": torch.tensor([len(e.values) for e in examples])}


@retrieval.problem
def _(row: Row) -> str | None:
    for name in ("positive", "negative"):
        found = row.get(name)
        if not isinstance(found, list) or not found:
            got = "nothing" if found is None else f"{found!r}"[:80]
            return f"{name} must be a list of at least one text; got {got}"
        wrong = next((text_problem({name: text}, name) for text in found if text_problem({name: text}, name)), None)
        if wrong:
            return wrong
    return text_problem(row, "query")


@retrieval.predict
def _(outputs: Tensor, tokenizer: Any, parameters: Mapping[str, Any]) -> np.ndarray:
    return np.array([" ".join(str(x) for x in row) for row in outputs.float().cpu().numpy()])


@retrieval.gold
def _(rows: Sequence[Row], parameters: Mapping[str, Any]) -> np.ndarray:
    return np.array([" ".join(["1"] * len(row["positive"]) + ["0"] * len(row["negative"])) for row in rows])


@retrieval.outcomes
def _(answers: np.ndarray, right: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
    return np.array([ndcg(_of(a)[: len(_of(r))], _of(r), PLACES) for a, r in zip(answers, right, strict=True)])


@retrieval.words
def _(answer: Any, labels: Sequence[str]) -> str:
    """The best documents by number, from 1, or for the right answer those that are relevant."""
    found = _of(answer)
    wanted = found == 1 if np.isin(found, (0, 1)).all() else None
    best = np.flatnonzero(wanted) if wanted is not None else np.argsort(-found, kind="stable")[:3]
    return "documents " + ", ".join(str(i + 1) for i in best)


def _of(text: str) -> np.ndarray:
    return np.array(str(text).split(), dtype=np.float64)
