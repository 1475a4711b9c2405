"""The place Interference: where the tasks disagree, which weights they share, how far they moved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from explorer.errors import ExplorerError
from explorer.results import Result
from explorer.workbench import Slot, Workbench
from viz.panels.draw import draw, empty
from viz.parts import PlotlyPanel

INTRO = (
    "Do these fine-tunes want opposite things of the same weights? Every figure shows its **chance level** beside it: "
    "what unrelated task vectors of the same sizes would give. Only what lies above chance is evidence."
)
ALL_PAIRS = "all tasks together"
SIGNS = ("minority_mass", "sign_conflict")
SHAPES = ("cosine", "norm_profile")
MASKS = ("mask_overlap", "mask_agreement")
TRIM_INFO = (
    "Compare signs only among each task's largest changes, as TIES does before it merges. 1 compares every changed "
    "weight."
)
MASK_INFO = (
    "λ of TALL-masks: a weight belongs to a task when its own change is larger than λ times what the other tasks add. "
    "Smaller λ gives fuller masks."
)


class InterferencePlace:
    """Layout and callbacks of the place Interference."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        gr.Markdown(INTRO, elem_classes="explorer-intro")
        gr.Markdown("### Signs: who pulls which way?")
        with gr.Row():
            self.trim = gr.Slider(
                0.01, 1.0, 0.2, step=0.01, label="Trim first to the top fraction", info=TRIM_INFO, min_width=320
            )
            self.pair = gr.Dropdown(
                [ALL_PAIRS], value=ALL_PAIRS, label="Show", info="All tasks, or one pair.", min_width=320
            )
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self.map = PlotlyPanel(empty("Comparing signs …"), elem_id="sign-map")
            with gr.Column(scale=2, min_width=320):
                self.pairs = PlotlyPanel(empty("Comparing signs …"), elem_id="sign-pairs")
        gr.Markdown("### Masks: whose weights are they?")
        self.threshold = gr.Slider(0.05, 2.0, 0.4, step=0.05, label="Mask threshold λ", info=MASK_INFO)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self.agreement = PlotlyPanel(empty("Building masks …"), elem_id="mask-agreement")
            with gr.Column(scale=2, min_width=320):
                self.overlap = PlotlyPanel(empty("Building masks …"), elem_id="mask-overlap")
        gr.Markdown("### Directions and sizes")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.cosine = PlotlyPanel(empty("Comparing directions …"), elem_id="cosine")
            with gr.Column(scale=3, min_width=320):
                self.norms = PlotlyPanel(empty("Measuring sizes …"), elem_id="norms")
        self.sign_panels = [self.map, self.pairs]
        self.mask_panels = [self.agreement, self.overlap]
        self.panels = [*self.sign_panels, *self.mask_panels, self.cosine, self.norms]

    def pair_choices(self, slot: Slot) -> dict[str, Any]:
        """The choices of the pair list for the open models."""
        names = slot.session.recipe.task_names
        pairs = [f"{a} and {b}" for i, a in enumerate(names) for b in names[i + 1 :]]
        return gr.update(choices=[ALL_PAIRS, *pairs], value=ALL_PAIRS)

    def _pair(self, slot: Slot, shown: str | None) -> tuple[str, str] | None:
        names = slot.session.recipe.task_names
        pairs = {f"{a} and {b}": (a, b) for i, a in enumerate(names) for b in names[i + 1 :]}
        return pairs.get(shown or "")

    def first_look(self, slot: Slot) -> dict[str, Any]:
        """Pairwise sign conflict for the place Models."""
        try:
            return draw("sign_conflict_pairs", self._survey(slot, SIGNS, 0.2)["sign_conflict"])
        except ExplorerError as error:
            return empty(str(error))

    def signs(self, slot: Slot, trim: float, shown: str | None) -> list[dict[str, Any]]:
        """Both sign figures at this trim density."""
        try:
            found = self._survey(slot, SIGNS, float(trim))
            pair = self._pair(slot, shown)
            result = found["sign_conflict"] if pair else found["minority_mass"]
            trimmed = f"Each task vector is trimmed to its largest {float(trim):.0%} first." if trim < 1 else None
            return [
                draw("sign_conflict_map", result, pair=pair, note=trimmed),
                draw("sign_conflict_pairs", found["sign_conflict"], note=trimmed),
            ]
        except ExplorerError as error:
            return [empty(str(error))] * 2

    def masks(self, slot: Slot, threshold: float) -> list[dict[str, Any]]:
        """Both mask figures at this threshold; read from stored histograms, so the slider answers at once."""
        try:
            found = self._survey(slot, MASKS, 1.0)
            return [
                draw("mask_agreement_layers", found["mask_agreement"], mask_threshold=float(threshold)),
                draw("mask_overlap_pairs", found["mask_overlap"], mask_threshold=float(threshold)),
            ]
        except ExplorerError as error:
            return [empty(str(error))] * 2

    def shapes(self, slot: Slot) -> list[dict[str, Any]]:
        """Cosine similarity and norms."""
        try:
            found = self._survey(slot, SHAPES, 1.0)
            return [draw("cosine_map", found["cosine"]), draw("norm_profile", found["norm_profile"])]
        except ExplorerError as error:
            return [empty(str(error))] * 2

    def everything(self, slot: Slot, trim: float, shown: str | None, threshold: float) -> Iterator[list[Any]]:
        """All figures, the quickest first."""
        skip = [gr.skip()] * 2
        yield [*self.signs(slot, trim, shown), *skip, *skip]
        yield [*skip, *skip, *self.shapes(slot)]
        yield [*skip, *self.masks(slot, threshold), *skip]

    def _survey(self, slot: Slot, metrics: tuple[str, ...], trim: float) -> dict[str, Result]:
        return self.bench.survey(slot.session.recipe, metrics=metrics, trim_density=trim)
