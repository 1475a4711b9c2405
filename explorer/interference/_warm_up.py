"""Compiles every loop of the fused survey once, so that it is kept: `python -m explorer.interference._warm_up`."""

from __future__ import annotations

import os

import torch

from explorer.compute import readiness
from explorer.compute.source import StateDictSource
from explorer.interference._run import collect


def warm_up() -> None:
    """One small survey with a trim density; the types are those of every other."""
    readiness.wait()
    base = {"w": torch.linspace(-1, 1, 3000).bfloat16()}
    tuned = {t: {"w": base["w"].roll(k)} for k, t in enumerate(("a", "b"), start=1)}
    collect(StateDictSource(base, tuned), trim_density=0.2)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(15)
    warm_up()
