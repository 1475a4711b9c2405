"""Checkpoints and data that people upload: each in a folder of its own session, or not kept at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from explorer.checkpoints import open_checkpoint
from explorer.checkpoints.opening import WEIGHT_SUFFIXES
from explorer.errors import InputError, OutputError, sentence
from explorer.seeds import digest_of

SUFFIXES = (*WEIGHT_SUFFIXES, ".json", ".txt", ".jinja")


class Uploads:
    """A folder of uploaded checkpoints, one subfolder per session whose name cannot be guessed from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def receive(self, session: str, files: Sequence[Path]) -> Path:
        """Keep files as a checkpoint folder; an earlier upload of that name stays as it is, for it may be in use.

        Raises InputError for anything but weights and their small companions, or when they are no checkpoint;
        OutputError when they cannot be stored. Nothing of them is kept then.
        """
        folder = self.new_folder(session, upload_name(files))
        try:
            for file in files:
                shutil.copyfile(file, folder / file.name)
            open_checkpoint(folder, allowed=[self.folder])
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            reason = (error.strerror or str(error)).lower()
            raise OutputError(sentence("upload", "must be storable", reason, "Free some space, try again.")) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def folder_of(self, session: str) -> Path:
        """Where everything of a session lies; it need not exist yet."""
        return self.folder / digest_of(session)

    def keep(self, session: str, file: Path) -> Path:
        """Take over an uploaded file of data as it is. Raises OutputError when it cannot be stored."""
        try:
            return Path(shutil.move(file, self.new_folder(session, "data") / file.name))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OutputError(sentence("upload", "must be storable", reason, "Free some space, try again.")) from error

    def new_folder(self, session: str, name: str) -> Path:
        """An empty folder of this name in the session's, or of this name and a number."""
        number = 1
        while True:
            folder = self.folder_of(session) / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1

    def forget(self, session: str) -> None:
        """Remove what a session uploaded."""
        shutil.rmtree(self.folder_of(session), ignore_errors=True)


def upload_name(files: Sequence[Path]) -> str:
    """A folder name for uploaded files. Raises InputError unless they are weights and their companions."""
    weights = [f for f in files if f.suffix in WEIGHT_SUFFIXES]
    names = [f.name for f in files]
    strange = [f.name for f in files if f.suffix not in SUFFIXES or f.name.startswith(".")]
    twice = sorted({n for n in names if names.count(n) > 1})
    if not weights or strange or twice:
        got = ", ".join(strange) or (f"{twice[0]} twice" if twice else "no weights")
        advice = "Select model.safetensors or pytorch_model.bin (or all shards and the index) and config.json together."
        raise InputError(sentence("upload", "must be weights (safetensors, PyTorch) and their config", got, advice))
    stem = min((f.stem for f in weights), key=len)
    return plain_name(stem)


def plain_name(text: str) -> str:
    """Any text as the name of a folder."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)[:60].strip("-") or "upload"
