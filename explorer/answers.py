"""Tables of interference metrics for the page, kept so that a question asked before is answered at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from explorer.compute import readiness
from explorer.interference import DENSITIES, METRICS, Survey
from explorer.results import Result
from explorer.seeds import digest_of
from explorer.store import Store

Parameters = Mapping[str, Mapping[str, Any]]


def tables(
    store: Store,
    digest: str,
    ask: Callable[..., Survey],
    metrics: Sequence[str],
    *,
    trim_density: float = 1.0,
    parameters: Parameters | None = None,
    held: bool = False,
) -> dict[str, Result]:
    """The tables of several metrics of the models with this digest; `ask` surveys them where nothing is kept.

    `parameters` are values by metric name; those that need no new pass cost none. `held`: survey all of `DENSITIES`
    together, where compiled loops are at hand, so that any of them is answered without reading a weight from then on.
    Raises as `ask` does.
    """
    passing, finishing = _split(parameters or {})
    alone = f"survey/{digest}/" + digest_of(sorted(metrics), trim_density, passing)
    along = f"survey/{digest}/" + digest_of(sorted(metrics), DENSITIES, passing)

    # Without the compiled pass, holding every density would take longer than all figures together.
    together = held and readiness.ready()

    def survey() -> Survey:
        if trim_density in DENSITIES and (together or along in store):
            densities = (trim_density, *DENSITIES)
            make = lambda: ask(metrics, parameters=passing, trim_density=trim_density, held=densities)  # noqa: E731
            return store.get_or_make(along, make, lambda s: s.size_bytes)
        return store.get_or_make(
            alone, lambda: ask(metrics, parameters=passing, trim_density=trim_density), lambda s: s.size_bytes
        )

    def made() -> dict[str, Result]:
        found = survey()
        return {
            name: found.finish(name, trim_density=trim_density, **finishing.get(name, {})) for name in found.planned
        }

    return store.get_or_make(f"tables/{alone}/{digest_of(finishing)}", made, lambda t: sum(map(_bytes, t.values())))


def _split(parameters: Parameters) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Values that need a pass over the weights, and values that only choose what is shown."""
    free = {name: {s.name for s in METRICS.get(name).finish_specs} for name in parameters}
    passing = {n: {k: v for k, v in own.items() if k not in free[n]} for n, own in parameters.items()}
    finishing = {n: {k: v for k, v in own.items() if k in free[n]} for n, own in parameters.items()}
    return {n: own for n, own in passing.items() if own}, {n: own for n, own in finishing.items() if own}


def _bytes(result: Result) -> int:
    return int(result.table.memory_usage(deep=True).sum())
