"""Models of the Hugging Face hub: found in the local cache without any network, downloaded only on request.

`org/name` or `org/name@revision` names one, unless a file or folder of that name is there. Only safetensors and their
small companions are fetched, and nothing in subfolders. What the cache holds is used as it is, for good: name a
revision to have another.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from explorer.checkpoints.handle import Checkpoint
from explorer.checkpoints.opening import open_checkpoint
from explorer.errors import Cancelled, CheckpointError, InputError, sentence
from explorer.executor import CancelToken, Progress, ProgressCallback
from explorer.recipe import hub_parts

FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE", "NOTICE")
_TIMEOUT_SECONDS = 10.0
_ALLOW = "If it is a model of the Hugging Face hub, allow its download (--hub, or the box on the page)."
_START = "If it is a model of the Hugging Face hub, start the app with --hub."


@dataclass(frozen=True)
class HubModel:
    """A model in the local cache: the folder of one revision, and the revision's full name."""

    name: str
    folder: Path
    revision: str


def find_cached(text: str) -> HubModel | None:
    """The cached model that a hub name leads to, without network; None where there is none or it is no hub name."""
    parts = hub_parts(text)
    if parts is None:
        return None
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = _snapshot(*parts, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return found if _whole(found.folder) else None


def _whole(folder: Path) -> bool:
    """Whether a cached folder holds weights: other programs may have fetched the tokenizer alone, or some shards."""
    names = {p.name for p in folder.iterdir()}
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_bytes())
        return names.issuperset(index["weight_map"].values())
    except FileNotFoundError:
        return any(n.endswith(".safetensors") for n in names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def open_model(path: str | Path, *, allowed: Sequence[Path] | None = None, hub: bool = True) -> Checkpoint:
    """Open a path, or a hub model that the cache holds; `hub` False knows paths only. Never uses the network.

    A hub model's `format` says its revision. Raises as `open_checkpoint`, with advice where the text may be a hub name.
    """
    if hub_parts(str(path)) is None:
        return open_checkpoint(path, allowed=allowed)
    found = find_cached(str(path)) if hub else None
    if found is None:
        try:
            return open_checkpoint(path, allowed=allowed)
        except InputError as error:
            raise type(error)(f"{error} {_ALLOW if hub else _START}") from error
    # Its files are links into the cache's own folder of this model, beside the snapshots.
    inside = None if allowed is None else (*allowed, found.folder.parents[1])
    checkpoint = open_checkpoint(found.folder, allowed=inside)
    format = f"{checkpoint.format}, hub revision {found.revision[:12]}"
    return replace(checkpoint, name=found.name.partition("/")[2], format=format)


def download(
    texts: Sequence[str], *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> tuple[HubModel, ...]:
    """Fetch every hub model among paths and names that the cache lacks; what is there already costs no network.

    Raises CheckpointError when one cannot be fetched, Cancelled when asked to stop; whole files already fetched stay
    in the cache.
    """
    found = []
    for text in dict.fromkeys(texts):
        parts = hub_parts(text)
        if parts is not None:
            found.append(find_cached(text) or _download(text, parts, progress, cancel))
    return tuple(found)


def _download(
    text: str, parts: tuple[str, str | None], progress: ProgressCallback | None, cancel: CancelToken | None
) -> HubModel:
    from huggingface_hub import errors

    who, missing = f"hub model {text}", "Check its name on the hub."
    try:
        found = _snapshot(*parts, tqdm_class=_bars(text, progress, cancel))
    except Cancelled:
        raise
    except errors.GatedRepoError as error:
        advice = "Ask for access on the hub, then log in with `hf auth login`."
        raise CheckpointError(sentence(who, "must be open to you", "a gated model", advice)) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        got = "no such model, or a private one"
        raise CheckpointError(sentence(who, "must be a model of the hub", got, missing)) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(sentence(who, "must be a revision of the model", "no such revision", missing)) from error
    except Exception as error:  # whatever the network, the proxy or the disk says
        raise CheckpointError(_unreachable(who, error)) from error
    if not _whole(found.folder):
        advice = "Other files are not fetched; download it yourself and give its folder."
        raise CheckpointError(sentence(who, "must hold whole safetensors weights", "none", advice))
    return found


def _unreachable(who: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE
    if offline:
        advice = "Unset HF_HUB_OFFLINE, or download the model elsewhere and give its folder."
        return sentence(who, "must be in the local cache while HF_HUB_OFFLINE is set", "nothing there", advice)
    advice = "Check the network, or download the model elsewhere and give its folder."
    if isinstance(error, errors.LocalEntryNotFoundError):
        return sentence(who, "must be downloaded", f"no answer from {urlsplit(_endpoint()).netloc}", advice)
    return sentence(who, "must be downloaded", " ".join(str(error).split())[:160] or type(error).__name__, advice)


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


def _snapshot(repo: str, revision: str | None, **options: Any) -> HubModel:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        repo,
        revision=revision,
        allow_patterns=list(FILES),
        ignore_patterns=["*/*"],
        endpoint=_endpoint(),
        etag_timeout=_TIMEOUT_SECONDS,
        **options,
    )
    return HubModel(repo, Path(folder), Path(folder).name)


def _bars(text: str, progress: ProgressCallback | None, cancel: CancelToken | None) -> type:
    """The hub library's progress bar, made to report to us in bytes, to stop on request, and to draw nothing."""
    from tqdm.auto import tqdm

    started = time.perf_counter()

    class Watched(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            if cancel:
                cancel.check("download")
            shown = super().update(n)
            if progress and self.unit == "B" and self.total:
                done, total = int(self.n), int(self.total)
                seconds = time.perf_counter() - started
                progress(Progress(min(done, total), total, seconds, f"downloading {text}, bytes"))
            return shown

    return Watched
