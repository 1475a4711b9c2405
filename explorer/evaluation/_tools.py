"""What a kind is handed to turn rows into tensors: the tokenizer and the image settings of the base's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from explorer.evaluation._api import TaskKind
from explorer.evaluation._images import Images, load_images
from explorer.evaluation._tokenizer import Tokenizer, load_tokenizer
from explorer.seeds import digest_of


@dataclass(frozen=True, eq=False)
class Both:
    """Tokenizer and image settings, for kinds that need both: hooks are handed this object."""

    text: Tokenizer
    images: Images

    @property
    def call(self) -> Both:
        """What a kind's hooks are handed."""
        return self

    @property
    def digest(self) -> str:
        """Equal digests give equal token ids and equal pixels."""
        return digest_of(self.text.digest, self.images.digest)


Tool = Tokenizer | Images | Both


def tool_names(kind: TaskKind) -> tuple[str, ...]:
    """Which of tokenizer and images a kind needs: equal for kinds that the same tool serves."""
    return tuple(n for n in ("tokenizer", "images") if n in kind.needs)


def load_tool(kind: TaskKind, folder: Path | str) -> Tool | None:
    """The tool that a kind needs, from a checkpoint folder; None for a kind that needs none.

    Raises CheckpointError where the folder lacks it.
    """
    names = tool_names(kind)
    if len(names) == 2:
        return Both(load_tokenizer(folder), load_images(folder))
    if names == ("tokenizer",):
        return load_tokenizer(folder)
    return load_images(folder) if names else None
