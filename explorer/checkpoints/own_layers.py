"""Layers that each fine-tune has for itself: heads on top of the backbone, and names under another prefix."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from explorer.checkpoints.adapted import Shift, shift_of, shifted
from explorer.checkpoints.adapter import Adapter
from explorer.checkpoints.handle import Checkpoint

_TASK_HEAD = re.compile(
    r"(?:pre_classifier|classifier|score|classification_head|qa_outputs|logits_proj|sequence_summary)\."
)
_POOLER = re.compile(r"(?:\w+\.)?pooler\.")
_PRETRAINING = re.compile(
    r"(?:cls|predictions|generator_predictions|discriminator_predictions|vocab_transform|vocab_layer_norm"
    r"|vocab_projector)\."
)
_LANGUAGE_HEAD = re.compile(r"(?:lm_head|head)\.|decoder\.(?:weight|bias)$")
_NAMED_AT_MOST = 4


@dataclass(frozen=True, eq=False)
class Renamed(Checkpoint):
    """A checkpoint whose tensors go by the base's names; `shift` is the prefix taken away, and the one put before."""

    shift: Shift

    @property
    def note(self) -> str:
        """What was done to the names, in words."""
        taken, put = self.shift
        done = f"have {taken!r} in front, which the base's lack" if taken else f"lack {put!r}, which the base's have"
        return f"its tensors' names {done}; they are matched without it"


def under_names_of(base: Checkpoint, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or with a prefix such as `bert.` added or taken away, as the base's names have it.

    Only where that makes more names fit, and more than half of the base's. Reads no weights. An adapter is left to
    `put_on`.
    """
    if isinstance(checkpoint, Adapter) or sum(n in base.tensors for n in checkpoint.tensors) > len(base.tensors) / 2:
        return checkpoint
    shift, _ = shift_of(base, [n for n in checkpoint.tensors if not is_task_head(n)])
    names = {n: _renamed(n, shift, base) for n in checkpoint.tensors}
    fitting = sum(n in base.tensors for n in names.values())
    if shift == ("", "") or fitting <= len(base.tensors) / 2 or len(set(names.values())) < len(names):
        return checkpoint
    infos = sorted((replace(i, name=names[i.name]) for i in checkpoint.infos), key=lambda i: i.name)
    held = {f.name: getattr(checkpoint, f.name) for f in fields(Checkpoint)}
    return Renamed(**{**held, "infos": tuple(infos)}, shift=shift)


def _renamed(name: str, shift: Shift, base: Checkpoint) -> str:
    """Without the prefix, wherever it is; with it, only where the base has that name: a head gets no prefix."""
    taken, _ = shift
    new = shifted(name, shift)
    return new if (name.startswith(taken) if taken else new in base.tensors) else name


def is_task_head(name: str) -> bool:
    """Whether a tensor belongs, by its name, to a head that is trained for one task, such as `classifier.weight`."""
    return _TASK_HEAD.match(name) is not None


def on_top(names: Iterable[str], reshaped: Iterable[str], held: Iterable[str]) -> tuple[str, ...]:
    """Those of a fine-tune's and a base's unlike tensors that are layers on top, in ascending name order.

    `names` are tensors that one of them lacks, `reshaped` those of another shape, `held` what the fine-tune holds.
    Heads for tasks count always; poolers and the heads of pretraining where one side lacks them; heads of language
    models only where the fine-tune has a head for its task in their place.
    """
    for_a_task = any(is_task_head(n) for n in held)
    found = {n for n in names if (part := _part(n)) and (for_a_task or not _LANGUAGE_HEAD.match(part))}
    return tuple(sorted(found | {n for n in reshaped if is_task_head(n)}))


def _part(name: str) -> str:
    """The layer on top that a tensor belongs to, such as `classifier.`; empty for one of the backbone."""
    patterns = (_TASK_HEAD, _POOLER, _PRETRAINING, _LANGUAGE_HEAD)
    return next((m.group() for p in patterns if (m := p.match(name))), "")


def own_note(task: str, names: Sequence[str]) -> str:
    """What becomes of the layers on top that differ from the base's."""
    return (
        f"task {task}: {_listed(names)} are layers on top of the backbone and not the same in the base: left out of "
        "the merge. A task with its own head is scored with its fine-tune's."
    )


def shared_note(names: Sequence[str], labels: Mapping[str, Sequence[str]]) -> str:
    """What becomes of heads of one shape everywhere; `labels` are those of the fine-tunes that say theirs."""
    different = len({tuple(own) for own in labels.values()}) > 1
    said = "; ".join(f"{task}: {', '.join(own[:_NAMED_AT_MOST])}" for task, own in labels.items())
    meaning = f" The fine-tunes' labels differ ({said}), so the merged head means none of them." if different else ""
    return (
        f"{_listed(names)}: merged like other tensors, being of one shape everywhere.{meaning} A task with its own "
        "head is scored with its fine-tune's instead."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(part if (part := _part(n)) == n else f"{part}*" for n in names))


def labels_of(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """The labels of a checkpoint's own head in its order, from id2label in config.json; None where it names none.

    Names that transformers makes up (LABEL_0, LABEL_1, …) are given as they are. None also where the numbers are not
    0 … n−1.
    """
    named = checkpoint.config.get("id2label")
    if not isinstance(named, dict) or not all(isinstance(v, str) for v in named.values()):
        return None
    by_number = {str(k): v for k, v in named.items()}
    numbers = [str(i) for i in range(len(by_number))]
    return tuple(by_number[i] for i in numbers) if by_number and set(by_number) == set(numbers) else None
