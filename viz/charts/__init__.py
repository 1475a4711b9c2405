"""Charts: one file each, a result in, a plotly figure, one sentence and a table out. No torch, no gradio."""

from viz.charts._api import CHARTS, Chart, chart
from viz.charts._pick import Selection, picked

__all__ = ["CHARTS", "Chart", "Selection", "chart", "picked"]
