"""Measures interference between task vectors: one streaming pass, every metric beside its chance level.

`survey(source)` gives one `Result` per metric; `collect(source)` keeps the sums, so that a result can be finished
again with other settings without reading a weight. A metric is one file in this folder (see `_api`).
"""

from explorer.interference._api import METRICS, Context, Metric, Totals, chosen_names, metric
from explorer.interference._grid import DENSITIES
from explorer.interference._kept import Closed, KeptSums, NotKept
from explorer.interference._memory import DEFAULT_MEMORY_BYTES, Fit, fit_memory, memory_bytes
from explorer.interference._run import SURVEY_SPECS, collect, survey
from explorer.interference._survey import Survey

__all__ = [
    "DEFAULT_MEMORY_BYTES",
    "DENSITIES",
    "METRICS",
    "SURVEY_SPECS",
    "Closed",
    "Context",
    "Fit",
    "KeptSums",
    "Metric",
    "NotKept",
    "Survey",
    "Totals",
    "chosen_names",
    "collect",
    "fit_memory",
    "memory_bytes",
    "metric",
    "survey",
]
