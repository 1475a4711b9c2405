"""The page's own parts: Gradio components for figures, for merge coefficients and for single matrices.

Building a `PlotlyPanel` lets Gradio serve plotly.min.js from the installed plotly package; an app needs no
`head=`, `css=`, `js=` or `allowed_paths=` for these parts. `static_paths()` names that file for an app with a
stricter policy of its own.
"""

from viz.parts.assets import static_paths
from viz.parts.controls import Controls, controls_value, read_controls
from viz.parts.history_keeper import HistoryKeeper, read_kept
from viz.parts.history_table import Act, HistoryTable, history_rows, read_act
from viz.parts.mixer import Mixer, mixer_rows, mixer_value, read_mixer
from viz.parts.mixer_curve import depth_value, own_values_hold, read_curves
from viz.parts.plotly_panel import PlotlyPanel, csv_text, panel_value, read_drag
from viz.parts.tile_canvas import TileCanvas, read_look, read_place, tiles_value

__all__ = [
    "Act",
    "Controls",
    "HistoryKeeper",
    "HistoryTable",
    "Mixer",
    "PlotlyPanel",
    "TileCanvas",
    "controls_value",
    "csv_text",
    "depth_value",
    "history_rows",
    "mixer_rows",
    "mixer_value",
    "own_values_hold",
    "panel_value",
    "read_act",
    "read_controls",
    "read_curves",
    "read_drag",
    "read_kept",
    "read_look",
    "read_mixer",
    "read_place",
    "static_paths",
    "tiles_value",
]
