"""Every setting that was evaluated as one line across what was set and what it scored."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, colour_bar, frame
from viz.charts._tables import top
from viz.charts._words import cut, lines, safe, short
from viz.style import NEUTRAL, NEUTRAL_FAINT, SEQUENTIAL, percent

HOW = (
    "Each line from top to bottom is one setting. Each row is a setting or a score (in %; average and worst "
    "as a percentage of each task's expert) on a scale of its own, from its lowest "
    "value at the left to its highest at the right: both ends are written, so a short range looks wide too. "
    "Settings that are the same everywhere are left out; a line has no dot in a row that its method does not have. "
    "Colour: the average; what chance gives is in the scores figure. The "
    "thick line is the one you clicked, or the setting shown now; hollow dots are quick estimates."
)

MOST = 200
"""So many settings are drawn, the newest; the table has all."""
_MEAN, _WORST = "mean of experts", "worst of experts"
_BINS = 6
_ENDS = 0.32
"""Room for the numbers at both ends of a row, as a share of it."""
_LABELLED = 4
_HEAD = ("label", "method", "when", "starred", "shown", "pinned", "complete")
_LAST = ("add-ons", "stored as", "seed")


def _rows(result: Result) -> pd.DataFrame:
    table = result.table
    return table[(table["task"] == "") | table["task"].isin(list(result.tasks))]


def _axes(rows: pd.DataFrame) -> list[str]:
    """What is drawn: the method, settings that differ, then scores; in the order in which they are first met."""
    kept = []
    for group in ("method", "setting", "score"):
        own = rows[rows["group"] == group]
        for axis in sorted(own["axis"].drop_duplicates(), key=lambda name: name in _LAST):
            cells = own[own["axis"] == axis]
            values = cells["value"].where(cells["value"].notna(), cells["words"])
            if group == "method" or (group == "score" and cells["value"].notna().any()) or values.nunique() > 1:
                kept.append(str(axis))
    return kept


class _Scale:
    """Where the values of one row lie, 0-1, and what stands at its ends."""

    def __init__(self, cells: pd.DataFrame) -> None:
        numbers = cells["value"].to_numpy(dtype=float)
        self.score = bool((cells["group"] == "score").all())
        known = numbers[np.isfinite(numbers)]
        self.words = [] if self.score else list(dict.fromkeys(cells["words"][~np.isfinite(numbers)]))
        self.low, self.high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
        self.numeric = bool(known.size)
        self.steps = len(self.words) + self.numeric

    def text(self, value: float) -> str:
        """A number of this row for people."""
        return percent(value) if self.score else f"{value:.4g}"

    def end(self, value: float) -> str:
        """The same beside the end of the row, whose name says that scores are in percent."""
        return f"{100 * value:.1f}" if self.score else f"{value:.3g}"

    def at(self, value: float, words: str) -> float:
        """Where a value lies; words have places of their own, left of the numbers where there are both."""
        if not math.isfinite(value):
            if words not in self.words:
                return math.nan
            share = self.words.index(words) / max(1, self.steps - 1)
            return 0.5 if self.steps == 1 else share * (1 if not self.numeric else 0.4)
        left = 0.5 if self.words else 0.0
        return left + (1 - left) * ((value - self.low) / (self.high - self.low) if self.high > self.low else 0.5)

    def marks(self) -> list[tuple[float, str, bool]]:
        """Where something is written, what, and whether it is a number: few words, both ends of the numbers."""
        ends = [self.low, self.high] if self.high > self.low else [self.low]
        told = [(self.at(x, ""), self.end(x), True) for x in ends] if self.numeric else []
        words = self.words if len(self.words) <= _LABELLED else []  # else they would overlap; the hover says them
        return [*((self.at(math.nan, w), short(w, 12), False) for w in words), *told]


@chart(title="Settings and their scores", how=HOW, result="settings")
def settings_parallel(result: Result, *, current: int | None = None) -> go.Figure:
    """Every evaluated setting as a line across its settings and its scores."""
    rows = _rows(result)
    if rows.empty:
        return blank("Move a slider: every setting that is scored becomes a line here.")
    rows = rows[rows["move"].isin(rows["move"].drop_duplicates().nlargest(MOST))]
    axes = _axes(rows)
    scales = {a: _Scale(rows[rows["axis"] == a]) for a in axes}
    step = 34 if len(axes) <= 30 else 26
    figure = frame(
        130 + step * len(axes), x="low to high in each row", y="setting or score",
        xaxis={"range": [-_ENDS, 1 + _ENDS], "showticklabels": False, "showgrid": False, "zeroline": False},
        yaxis={"tickmode": "array", "tickvals": np.arange(len(axes)), "ticktext": [_axis_label(a) for a in axes],
               "range": [len(axes) - 0.1, -0.8], "zeroline": False, "automargin": True, "showgrid": False},
        showlegend=False,
    )  # fmt: skip
    lines_of = [_Line(own, axes, scales) for _, own in rows.groupby("move", sort=True)]
    _scales(figure, scales)
    _drawn(figure, lines_of, _chosen(rows, current))
    return figure


def _axis_label(axis: str) -> str:
    score = {_MEAN: "average, %", _WORST: "worst, %"}.get(axis)
    task = axis.removeprefix("score on ")
    return score or (f"{short(task, 10)}, %" if task != axis else short(axis.replace(" of ", " · ", 1), 13))


def _scales(figure: go.Figure, scales: dict[str, _Scale]) -> None:
    """A quiet line per row, and what its ends mean."""
    for place, scale in enumerate(scales.values()):
        line = {"color": NEUTRAL_FAINT, "width": 1}
        figure.add_shape(type="line", x0=0, x1=1, y0=place, y1=place, line=line, layer="below")
        for x, text, number in scale.marks():
            outside = number and x in (0.0, 1.0)  # beside the row's end, where no dot can be
            anchor = (
                ("right" if x == 0 else "left") if outside else "left" if x < 0.2 else "right" if x > 0.8 else "center"
            )
            shift = {"xshift": -8 if x == 0 else 8} if outside else {"yshift": 11}
            if anchor == "center" and number:  # the one value of every setting: beside the lines that run through it
                anchor, shift = "left", {"xshift": 9, "yshift": 9}
            at = {"x": x, "y": place, "xanchor": anchor, "yanchor": "middle", **shift}
            figure.add_annotation(text=text, showarrow=False, font={"size": 9 if number else 10}, **at)


class _Line:
    """One setting: its places from top to bottom, and what it says."""

    def __init__(self, own: pd.DataFrame, axes: list[str], scales: dict[str, _Scale]) -> None:
        first = own.iloc[0]
        self.move, self.complete = int(first["move"]), bool(first["complete"])
        cells = own.drop_duplicates("axis", keep="last").set_index("axis")
        self.mean = float(cells["value"].get(_MEAN, math.nan))
        said = f"{'A · ' if first['pinned'] else ''}{safe(cut(first['label'], 60))}"
        quick = "" if self.complete else "quick estimate on some of the examples"
        self.x, self.y, self.hover = [], [], []
        for place, axis in enumerate(axes):
            if axis in cells.index:
                value, words = float(cells["value"][axis]), str(cells["words"][axis])
                x = scales[axis].at(value, words)
                if math.isfinite(x):
                    told = scales[axis].text(value) if math.isfinite(value) else safe(words)
                    extra = f" ({safe(words)})" if math.isfinite(value) and words else ""
                    mean = f"average {percent(self.mean)} of the experts"
                    self.x.append(x)
                    self.y.append(float(place))
                    self.hover.append(lines(f"{self.move}: {said}", f"{safe(axis)}: {told}{extra}", mean, quick))


def _chosen(rows: pd.DataFrame, current: int | None) -> int | None:
    """The setting whose line is thick: the one that was picked, else the one that is shown now."""
    if current is not None and (rows["move"] == current).any():
        return current
    shown = rows[rows["shown"] == 1]["move"]
    return int(shown.iloc[0]) if len(shown) else None


def _colour(share: float) -> str:
    """A colour of the scale without its darkest and palest ends, which a page would swallow."""
    from plotly.colors import sample_colorscale

    return str(sample_colorscale(SEQUENTIAL, [0.15 + 0.75 * share])[0])


def _drawn(figure: go.Figure, every: list[_Line], chosen: int | None) -> None:
    """Lines in a few traces, one per step of colour; then the dots, then the chosen line on top."""
    means = np.array([line.mean for line in every])
    known = means[np.isfinite(means)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    span = (high - low) or 1.0
    shares = [(line.mean - low) / span if math.isfinite(line.mean) else math.nan for line in every]
    for step in (*range(_BINS), None):
        own = [line for line, share in zip(every, shares, strict=True) if _bin(share) == step]
        if own:
            colour = NEUTRAL if step is None else _colour((step + 0.5) / _BINS)
            x, y = (np.array([v for one in own for v in (*getattr(one, axis), np.nan)]) for axis in ("x", "y"))
            figure.add_scatter(
                x=x,
                y=y,
                mode="lines",
                hoverinfo="skip",
                opacity=max(0.25, min(0.8, 16 / len(every))),
                line={"color": colour, "width": 1.3},
            )
    _dots(figure, every, (low, low + span))
    picked = next((line for line in every if line.move == chosen), None)
    if picked:
        for colour, width in (("#ffffff", 6), ("#111827", 3)):
            figure.add_scatter(
                x=np.array(picked.x), y=np.array(picked.y), mode="lines+markers", hoverinfo="skip", name="selected",
                line={"color": colour, "width": width}, marker={"color": colour, "size": 5 + width},
            )  # fmt: skip


def _bin(share: float) -> int | None:
    return min(_BINS - 1, int(share * _BINS)) if math.isfinite(share) else None


def _dots(figure: go.Figure, every: list[_Line], ends: tuple[float, float]) -> None:
    """What can be hovered and clicked; its colour bar stands for the lines too."""
    told = [(line, i) for line in every for i in range(len(line.x))]
    means = np.array([100 * line.mean for line, _ in told])
    scale = [[share / 10, _colour(share / 10)] for share in range(11)]
    bar = colour_bar("average, % of the experts", thickness=9)
    figure.add_scatter(
        x=np.array([line.x[i] for line, i in told]), y=np.array([line.y[i] for line, i in told]), mode="markers",
        hovertext=[line.hover[i] for line, i in told], hoverinfo="text",
        customdata=np.array([{"move": line.move} for line, _ in told], dtype=object),
        marker={"size": 8, "color": np.where(np.isfinite(means), means, 100 * ends[0]), "colorscale": scale,
                "cmin": 100 * ends[0], "cmax": 100 * ends[1], "showscale": bool(np.isfinite(means).any()),
                "colorbar": bar, "symbol": ["circle" if line.complete else "circle-open" for line, _ in told]},
    )  # fmt: skip


@settings_parallel.caption
def _caption(result: Result, *, current: int | None) -> str:
    rows = _rows(result)
    if rows.empty:
        return "No setting has been scored yet."
    count = rows["move"].nunique()
    said = f"{count:,} setting{'s' if count > 1 else ''}"
    said += f", the newest {MOST} drawn" if count > MOST else ""
    means = rows[(rows["axis"] == _MEAN) & rows["value"].notna()]
    if means.empty:
        return f"{said}; no expert's score is known."
    best = top(means, means["value"])
    quick = "" if best["complete"] else " (quick estimate)"
    said += f"; the highest average is {percent(best['value'])} of the experts{quick}: {_named(best)}"
    at = means[means["move"] == _chosen(rows, current)]
    if len(at) and int(at.iloc[0]["move"]) != int(best["move"]):
        said += f"; the thick line, {_named(at.iloc[0])}, has {percent(at.iloc[0]['value'])}"
    return f"{said}."


def _named(row: pd.Series) -> str:
    return f"number {int(row['move'])}, {cut(row['label'], 60)}"


@settings_parallel.table
def _table(result: Result, *, current: int | None) -> pd.DataFrame:
    rows = _rows(result)
    head = rows.drop_duplicates("move")[["move", *_HEAD]].set_index("move")
    axes = list(rows[rows["group"] != "method"]["axis"].drop_duplicates())
    columns = {}
    for axis in axes:
        own = rows[rows["axis"] == axis].drop_duplicates("move", keep="last").set_index("move")
        use_words = own["group"].iloc[0] != "score" and not own["value"].notna().any()
        columns[axis] = own["words" if use_words else "value"].reindex(head.index)
    return pd.concat([head, pd.DataFrame(columns, index=head.index)], axis=1).reset_index()
