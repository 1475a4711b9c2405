"""Whether an exported folder is what was computed: digests of every tensor, finite values, and a model that loads.

An export lays `explorer_export.json` beside its weights. It holds a digest for every tensor: pieces of `step` elements
(the last may be shorter) are hashed by sha256, and the digest is the sha256 of their hashes in a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from explorer.checkpoints import Checkpoint, open_checkpoint
from explorer.errors import CheckpointError, InputError, OutputError, all_problems, sentence
from explorer.executor import CancelToken, ProgressCallback, ThreadExecutor
from explorer.export_pass import digest_of_values, workers

SIDECAR = "explorer_export.json"
SCHEMA = 1
VERIFY_BYTES = 2 * 10**9
"""Outputs below this are verified unless somebody asks otherwise."""
UNSEALED = ("README.md", SIDECAR)
"""Files that people may edit afterwards; all others must stay as they were written."""
_SHOWN, _LARGE_BYTES = 10, 2 * 10**8
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Verification:
    """What was found: a sentence per thing that holds, and one per thing that does not."""

    held: tuple[str, ...]
    problems: tuple[str, ...]

    def require(self, who: str) -> None:
        """Raise OutputError with every problem."""
        if self.problems:
            more = len(self.problems) - _SHOWN
            shown = [*self.problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
            raise OutputError(all_problems(who, shown))


def tensor_digest(pieces: Sequence[str]) -> str:
    """One digest from the hexadecimal digests of a tensor's pieces, in order."""
    return hashlib.sha256(b"".join(bytes.fromhex(p) for p in pieces)).hexdigest()


def verify_folder(
    folder: str | Path,
    *,
    load: bool = True,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Verification:
    """Compare a folder with its sidecar; with `load`, also load configuration, tokenizer and model.

    Every weight is read once. Raises InputError where there is no sidecar to compare with, Cancelled.
    """
    folder = Path(folder).expanduser()
    known = _read_sidecar(folder)
    try:
        checkpoint = open_checkpoint(folder)
    except InputError as error:
        return Verification((), (str(error),))
    held, problems = check_tensors(checkpoint, known["tensors"], progress=progress, cancel=cancel)
    problems += _files(folder, known.get("files", {}))
    if load and not problems:
        more, wrong = check_loading(folder)
        held, problems = [*held, *more], [*problems, *wrong]
    return Verification(tuple(held), tuple(problems))


def _read_sidecar(folder: Path) -> dict[str, Any]:
    """The sidecar's content. Raises InputError where there is none that can be read."""
    path, advice = folder / SIDECAR, "Export the model again; older exports have no such file."
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        must = f"must hold {SIDECAR}, which exports write"
        raise InputError(sentence(str(folder), must, "none", advice)) from error
    except (OSError, ValueError) as error:
        raise InputError(sentence(str(path), "must be readable JSON", str(error)[:120], advice)) from error
    good = isinstance(known, dict) and known.get("schema") == SCHEMA and isinstance(known.get("tensors"), dict)
    if not good or not all(_is_entry(t) for t in known["tensors"].values()):
        raise InputError(sentence(str(path), f"must be of schema {SCHEMA}", "something else", advice))
    return known


def _is_entry(tensor: Any) -> bool:
    return isinstance(tensor, dict) and isinstance(tensor.get("step"), int) and isinstance(tensor.get("sha256"), str)


def check_tensors(
    checkpoint: Checkpoint,
    known: Mapping[str, Mapping[str, Any]],
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> tuple[list[str], list[str]]:
    """What holds of all tensors, and a sentence for each that is missing, new, not finite, or other than computed."""
    where = str(checkpoint.path)
    advice = "Export the model again, or copy it again."
    problems = [
        sentence(where, f"tensor {n} must be there", "none", advice) for n in known if n not in checkpoint.tensors
    ]
    extra = [n for n in checkpoint.tensors if n not in known]
    problems += [sentence(where, "must hold only what was exported", f"tensor {n}", advice) for n in extra]
    names = [n for n in known if n in checkpoint.tensors]
    pool = ThreadExecutor(workers())
    one = lambda name: _tensor_problem(checkpoint, name, known[name])  # noqa: E731
    found = pool.map(one, names, total=len(names), label="verifying", progress=progress, cancel=cancel)
    problems += [problem for problem in found if problem]
    said = (
        f"{len(names)} tensors ({checkpoint.total_bytes:,} bytes) read back: digests as computed, merged values finite"
    )
    return ([] if problems else [said]), problems


def _tensor_problem(checkpoint: Checkpoint, name: str, known: Mapping[str, Any]) -> str | None:
    """What is wrong with one tensor, or None; reads it in pieces."""
    info, digests, bad = checkpoint.info(name), [], 0
    step = max(1, known["step"])
    try:
        for start in range(0, info.numel, step):
            values = checkpoint.read_flat(name, start, min(start + step, info.numel))
            digests.append(digest_of_values(values))
            bad += int((~torch.isfinite(values)).sum()) if known.get("merged") and info.is_float else 0
    except CheckpointError as error:
        return str(error)
    where = f"{checkpoint.path}, tensor {name}"
    if bad:
        return sentence(where, "every merged weight must be a finite number", f"{bad} that are not", "Do not use it.")
    if tensor_digest(digests) != known["sha256"] or [*info.shape] != known.get("shape", [*info.shape]):
        return sentence(where, "must have the digest of what was computed", "another one", "Export the model again.")
    return None


def file_sha256(path: Path) -> str:
    """The sha256 of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(folder: Path, known: Mapping[str, str]) -> list[str]:
    """A sentence for every file beside the weights that is missing or was changed."""
    problems = []
    for name, digest in known.items():
        path = folder / Path(name).name
        found = file_sha256(path) if path.is_file() else None
        if found != digest:
            got = "none" if found is None else "a changed one"
            advice = "Export the model again, or copy it again."
            problems.append(sentence(str(path), "must be the file that was exported", got, advice))
    return problems


def check_loading(folder: Path) -> tuple[list[str], list[str]]:
    """Whether transformers can load configuration and tokenizer, and the model answers with finite numbers.

    What a folder never had, or transformers cannot load, is said and is no fault of the weights; an answer that is not
    finite is one.
    """
    if not (folder / "config.json").is_file():
        return ["there is no config.json, so no model was built"], []
    held = []
    if any((folder / name).is_file() for name in _TOKENIZERS):
        from explorer.evaluation import load_tokenizer

        try:
            load_tokenizer(folder)
            held.append("the tokenizer loads")
        except InputError as error:
            held.append(f"the tokenizer does not load: {_first(error)}")
    said, wrong = _forward(folder)
    return [*held, *said], wrong


def _first(error: InputError) -> str:
    """The beginning of a message that may be long."""
    return " ".join(str(error).split())[:200]


def _forward(folder: Path) -> tuple[list[str], list[str]]:
    """One pass over a few tokens; in bfloat16 where float32 would take much memory."""
    from explorer.evaluation import load_module

    checkpoint = open_checkpoint(folder)
    try:
        module = load_module(
            checkpoint, dtype=torch.bfloat16 if checkpoint.total_bytes > _LARGE_BYTES else torch.float32
        )
    except InputError as error:
        return [f"no model was built: {_first(error)}"], []
    ids = torch.arange(8).remainder(max(1, int(getattr(module.config, "vocab_size", 8) or 8))).view(1, -1)
    try:
        with torch.inference_mode():
            out = module(input_ids=ids)
        first = next(v for v in out.values() if isinstance(v, torch.Tensor))
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        return [f"the model loads; it takes other inputs than tokens ({reason})"], []
    if not bool(torch.isfinite(first).all()):
        must = "a pass over eight tokens must give finite numbers"
        return [], [sentence(str(folder), must, "some that are not", "Choose a smaller scale, or another dtype.")]
    return ["the model loads and answers with finite numbers"], []
