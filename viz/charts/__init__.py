"""Charts: one file each, a result in, a plotly figure, one sentence and a table out. No torch, no gradio."""

from viz.charts._api import CHARTS, Chart, chart

__all__ = ["CHARTS", "Chart", "chart"]
