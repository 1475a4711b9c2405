"""A survey as one page that works offline: figures, their sentences, explanations and numbers, plotly.js inside once.

The page follows the reader's light or dark setting and prints in the light one. Every registered chart that draws a
result at hand is in it, so a new chart appears by itself. Names come from checkpoints and are shown as text only.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from explorer.errors import ExplorerError
from explorer.results import Result
from viz.charts import CHARTS, Chart
from viz.export import CONFIG, POLICY, table_html, write_text
from viz.style import FONT, Theme, page_colour, seconds_text, task_colour, template
from viz.words import headline_words

_THEMES: tuple[Theme, ...] = ("light", "dark")
_FOLDER = Path(__file__).parent
INTRO = (
    "Do these fine-tunes want opposite things of the same weights? Every number stands beside its chance level: what "
    "unrelated task vectors of the same sizes would give. Only what lies above chance is evidence."
)


@dataclass(frozen=True)
class Section:
    """One figure of a report with its words and numbers; text is plain text, never HTML."""

    title: str
    figure: go.Figure | None = None
    caption: str = ""
    how: str = ""
    table: pd.DataFrame | None = None


def write_survey_report(results: Mapping[str, Result], path: Path, summary: Mapping[str, Any]) -> None:
    """Write the page of a survey, whole or not at all. Raises OutputError.

    `summary` is what the command `survey` writes as JSON: headlines, and the provenance of the numbers.
    """
    rules = summary.get("provenance", {})
    sections = survey_sections(results, {"mask_threshold": rules.get("mask_threshold")})
    tasks = next((r.tasks for r in results.values()), ())
    title = "Task interference of " + _listed(tasks) if tasks else "Task interference"
    write_text(path, report_html(sections, title=title, headlines=summary.get("headlines", ()), facts=_facts(rules)))


def survey_sections(results: Mapping[str, Result], values: Mapping[str, Any] | None = None) -> list[Section]:
    """A section for every chart and every result that it draws, in the order of the results.

    `values` reach the charts that declare such a parameter. A chart that cannot be drawn is a section that says so:
    one figure must not cost the reader the others.
    """
    kinds = {result.kind: result for result in results.values()}
    made = []
    for result in results.values():
        for chart in (c for c in CHARTS if result.kind in c.results):
            several = sum(kind in kinds for kind in chart.results) > 1
            made.append(_drawn(chart, result, values or {}, f": {result.kind.replace('_', ' ')}" if several else ""))
    return made


def _drawn(chart: Chart, result: Result, values: Mapping[str, Any], which: str) -> Section:
    declared = {s.name for s in chart.specs}
    chosen: dict[str, Any] = {k: v for k, v in values.items() if k in declared and v is not None}
    chosen["colours"] = {task: task_colour(i) for i, task in enumerate(result.tasks)}
    try:
        figure, caption = chart(result, **chosen), chart.caption_of(result, **chosen)
        return Section(chart.title + which, figure, caption, chart.how, chart.table_of(result, **chosen))
    except ExplorerError as error:
        return Section(chart.title + which, caption=str(error), how=chart.how)
    except Exception as error:  # a fault of one chart, after what may have been hours of work
        said = f"This figure could not be drawn ({type(error).__name__}: {error}). Its numbers are in the tables."
        return Section(chart.title + which, caption=said, how=chart.how)


def report_html(
    sections: Iterable[Section],
    *,
    title: str = "Task interference",
    headlines: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, str] | None = None,
) -> str:
    """One page with several figures, their sentences, explanations and tables; plotly.js is inside once."""
    listed = list(sections)
    figures = {f"figure-{i}": s.figure for i, s in enumerate(listed) if s.figure is not None}
    blocks = [_section(section, i) for i, section in enumerate(listed)]
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(INTRO)}</p>" if listed else "<p>There is nothing to report.</p>",
        _cards(headlines),
        _contents(listed),
        *blocks,
        _facts_html(facts or {}),
        "<noscript><p>The figures need JavaScript; sentences and numbers do not.</p></noscript>",
    ]
    return _page(title, "".join(body), _script(figures))


def _cards(headlines: Sequence[Mapping[str, Any]]) -> str:
    words = [headline_words(entry) for entry in headlines]
    cards = [f"<li>{html.escape(t)}<b>{html.escape(v)}</b>{html.escape(s)}</li>" for t, v, s in words]
    return f'<ul class="cards">{"".join(cards)}</ul>' if cards else ""


def _contents(sections: Sequence[Section]) -> str:
    if len(sections) < 3:
        return ""
    links = [f'<li><a href="#section-{i}">{html.escape(s.title)}</a></li>' for i, s in enumerate(sections)]
    return f'<nav aria-label="Figures"><ol>{"".join(links)}</ol></nav>'


def _section(section: Section, place: int) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.figure is not None:
        height = section.figure.layout.height or 420
        label = html.escape(section.caption or section.title)
        parts.append(f'<div class="figure" id="figure-{place}" role="img" aria-label="{label}" ')
        parts.append(f'style="height:{int(height)}px"></div>')
    if section.caption:
        parts.append(f"<p>{html.escape(section.caption)}</p>")
    if section.how:
        how = html.escape(section.how)
        parts.append(f'<details class="how"><summary>How to read this</summary><p>{how}</p></details>')
    if section.table is not None:
        numbers = table_html(section.table)
        parts.append(f'<details class="numbers"><summary>Numbers</summary>{numbers}</details>')
    return f'<section id="section-{place}">{"".join(parts)}</section>'


def _facts(rules: Mapping[str, Any]) -> dict[str, str]:
    """Where the numbers come from, in words."""
    facts = {
        name: f"{model['path']} (content {model['digest'][:12]})" for name, model in rules.get("models", {}).items()
    }
    if "n" in rules:
        facts["weights"] = f"{rules['n']:,} in {rules.get('tensors', 0):,} tensors"
    for key in ("only", "trim_density", "denominator", "mask_threshold"):
        if rules.get(key):
            facts[key.replace("_", " ")] = ", ".join(rules[key]) if key == "only" else str(rules[key])
    if "seconds" in rules:
        facts["time of this run"] = seconds_text(rules["seconds"])
    if "versions" in rules:
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in rules["versions"].items())
    return facts


def _facts_html(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    return f'<section><h2>Where the numbers come from</h2><dl class="facts">{rows}</dl></section>' if rows else ""


def _listed(tasks: Sequence[str]) -> str:
    shown = list(tasks) if len(tasks) <= 8 else [*tasks[:7], f"{len(tasks) - 7} more"]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]


def _script(figures: Mapping[str, go.Figure]) -> str:
    """Figures as data and the code that draws them; plotly's JSON writes `<`, `>` and `/` so that none ends it."""
    if not figures:
        return ""
    given = {
        "FIGURES": {name: figure.to_plotly_json() for name, figure in figures.items()},
        "TEMPLATES": {theme: template(theme).to_plotly_json() for theme in _THEMES},
        "CONFIG": CONFIG,
    }
    constants = "".join(f"const {name} = {to_json_plotly(value)};\n" for name, value in given.items())
    code = (_FOLDER / "report.js").read_text(encoding="utf-8")
    return f"<script>{get_plotlyjs()}</script><script>{constants}{code}</script>"


def _colours(theme: Theme) -> str:
    layout = template(theme).layout
    ink = {"page": page_colour(theme), "ink": layout.font.color, "soft": layout.xaxis.tickfont.color}
    return "".join(f"--{name}:{colour};" for name, colour in ink.items())


def _page(title: str, body: str, script: str) -> str:
    style = (
        f":root{{{_colours('light')}--line:#7b849459;--font:{FONT}}}\n"
        f"@media screen and (prefers-color-scheme: dark){{:root{{{_colours('dark')}}}}}\n"
        + (_FOLDER / "report.css").read_text(encoding="utf-8")
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main>{script}</body></html>\n"
    )
