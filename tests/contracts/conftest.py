"""Small synthetic models that contract tests share: siblings of one base, in any dtype, with awkward tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from given_zoo import source_with
from torch import Tensor

from explorer.compute.source import StateDictSource

SHAPES: dict[str, tuple[int, ...]] = {
    "block.0.weight": (9, 7),
    "block.1.weight": (40, 11),
    "empty": (0, 3),
    "one": (1,),
    "scale": (),
    "single": (5, 5),
}

StateDict = dict[str, Tensor]
SourceMaker = Callable[..., StateDictSource]


def models(
    count: int, dtype: torch.dtype = torch.float32, *, dyadic: bool = False
) -> tuple[StateDict, list[StateDict]]:
    """A base and its fine-tunes; `dyadic` values make every sum exact and many votes cancel exactly."""
    generator = torch.Generator().manual_seed(7)

    def draw(shape: tuple[int, ...], spread: int) -> Tensor:
        if dyadic:
            return torch.randint(-spread, spread + 1, shape, generator=generator) / 64
        return torch.randn(shape, generator=generator) * (spread / 16)

    base = {n: draw(s, 16).to(dtype) for n, s in SHAPES.items()}
    base["block.0.weight"].view(-1)[:4] = torch.tensor([-0.0, 0.0, 3.0, -2.0], dtype=dtype)
    tasks = []
    for _ in range(count):
        task = {n: (v.double() + draw(tuple(v.shape), 3)).to(dtype) for n, v in base.items()}
        task["single"] = base["single"].clone()  # a tensor nobody changed
        tasks.append(task)
    return base, tasks


@pytest.fixture
def make_source() -> SourceMaker:
    """Builds a source: `make_source(tasks=4, dtype=torch.float16, dyadic=False, names="abcd")`."""

    def make(
        tasks: int = 3, dtype: torch.dtype = torch.float32, *, dyadic: bool = False, names: str = "abcdefgh"
    ) -> StateDictSource:
        base, tuned = models(tasks, dtype, dyadic=dyadic)
        return source_with(base, dict(zip(names, tuned, strict=False)))

    return make
