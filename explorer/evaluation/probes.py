"""Heads where nobody trained one: from texts that say what labels mean, or fitted on a model's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from explorer.checkpoints import Checkpoint
from explorer.errors import DataError, all_problems, sentence
from explorer.evaluation._api import KINDS, Row
from explorer.evaluation._texts import encoded, padded, pooled, text_problem, token_vectors
from explorer.evaluation._tokenizer import load_tokenizer
from explorer.evaluation.heads import save_head
from explorer.evaluation.loading import Loaded

_BATCH = 32
_STRENGTH = 100.0
"""Inverse of the probe's L2 penalty, scikit-learn's C: its default of 1 would hold back features of length 1."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted head [labels, hidden] for kind text_classification, and in words where it came from."""

    weight: Tensor
    said: str


def text_features(
    checkpoint: Checkpoint | Path | str,
    texts: Sequence[str],
    *,
    pooling: str = "mean",
    max_length: int = 64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """L2-normalised embeddings [texts, hidden] float32 of a model, as kind text_classification takes them.

    The tokenizer is that of the model's folder. Raises CheckpointError as `load_module` and `load_tokenizer`.
    """
    loaded = Loaded(checkpoint, device=device)
    path = loaded.checkpoint.path
    tokenizer = load_tokenizer(path if path.is_dir() else path.parent).call
    module, examples = loaded(None), encoded(texts, [None] * len(texts), tokenizer, max_length)
    found = []
    for start in range(0, len(examples), _BATCH):
        batch = padded([e.values for e in examples[start : start + _BATCH]], tokenizer)
        plain = {k: batch[k].to(device) for k in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            found.append(pooled(token_vectors(module, plain, "features"), plain["attention_mask"], pooling).cpu())
    return torch.cat(found)


def label_text_head(
    base: Checkpoint | Path | str,
    texts: Sequence[str],
    *,
    pooling: str = "mean",
    template: str = "{}",
    max_length: int = 64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """A frozen head [labels, hidden]: row k is the base's embedding of the text that says what label k means.

    Each text stands where `template` has {}. Raises DataError for an empty text or a template without {}.
    """
    problems = [p for text in texts if (p := text_problem({"label text": text}, "label text"))]
    if "{}" not in template:
        problems.append(sentence("template", "must hold {} where the label's text stands", repr(template), "Add it."))
    if problems or not texts:
        raise DataError(all_problems("label texts", problems or ["label texts: there must be at least one."]))
    said = [template.replace("{}", text) for text in texts]
    return text_features(base, said, pooling=pooling, max_length=max_length, device=device)


def fit_probe(
    expert: Checkpoint | Path | str,
    rows: Sequence[Row],
    labels: Sequence[str],
    *,
    pooling: str = "mean",
    max_length: int = 64,
    device: torch.device | str = "cpu",
) -> Probe:
    """A linear probe: logistic regression of the labels of training rows on the expert's embeddings.

    Without a bias, on embeddings of length 1, so that it is a head for kind text_classification with the same pooling
    and max_length: the answer is the row nearest to the text. Of two labels each gets half of the one vector.
    Raises DataError for rows without text or label, or where a label has no row.
    """
    from sklearn.linear_model import LogisticRegression

    kind = KINDS.get("text_classification")
    problems = [f"row {i}: {p}" for i, row in enumerate(rows, start=1) if (p := kind.row_problem(row))][:10]
    right = np.array([row.get("label", -1) for row in rows])
    without = [name for number, name in enumerate(labels) if not (right == number).any()]
    if without:
        must = "training rows must hold every label"
        problems.append(sentence("probe", must, f"none of {', '.join(without[:5])}", "Give rows of each."))
    if problems:
        raise DataError(all_problems("probe", problems))
    features = text_features(
        expert, [row["text"] for row in rows], pooling=pooling, max_length=max_length, device=device
    )
    fitted = LogisticRegression(C=_STRENGTH, fit_intercept=False, max_iter=1000).fit(features.numpy(), right)
    found = fitted.coef_ if len(fitted.coef_) > 1 else np.concatenate([-fitted.coef_, fitted.coef_]) / 2
    said = f"linear probe fitted on {len(rows)} training rows, on the expert's features"
    return Probe(torch.from_numpy(found).to(torch.float32), said)


def write_probe(probe: Probe, folder: Path | str) -> Path:
    """Keep a probe as a task folder's head; task.json then says where it came from. Raises as `write_head`."""
    return save_head({"weight": probe.weight}, Path(folder), head_source=probe.said)
