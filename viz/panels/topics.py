"""What the place Interference shows under each topic: which figures, of which metrics, and the words around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from viz.panels.views import View

SIGNS = ("minority_mass", "sign_conflict")
MASKS = ("mask_overlap", "mask_agreement")
SHAPES = ("cosine", "norm_profile")
SIZES = ("redundancy",)
PATTERNS = ("mask_patterns",)
MATRICES = ("sti", "wudi_loss", "sar", "subspace_overlap", "spectrum")
UPSET_MOST = 6

MEASURES = {
    "sti": "Singular task interference",
    "wudi_loss": "WUDI loss: disturbance of each task's own inputs",
    "sar": "Subspace alignment with the sum",
}


@dataclass(frozen=True)
class Figure:
    """One figure of a topic: its chart, the metric drawn, the element's id, and what it says until it is drawn."""

    chart: str
    metric: str
    id: str
    waiting: str
    width: int = 1


_LATER = "Open this topic to decompose the matrices."
TOPICS: Mapping[str, tuple[Figure, ...]] = {
    "signs": (
        Figure("sign_conflict_map", "minority_mass", "sign-map", "Comparing signs …", 3),
        Figure("sign_conflict_pairs", "sign_conflict", "sign-pairs", "Comparing signs …", 2),
    ),
    "masks": (
        Figure("mask_agreement_layers", "mask_agreement", "mask-agreement", "Building masks …", 3),
        Figure("mask_overlap_pairs", "mask_overlap", "mask-overlap", "Building masks …", 2),
        Figure("mask_upset", "mask_patterns", "mask-upset", "Counting groups …"),
    ),
    "tasks": (
        Figure("cosine_map", "cosine", "cosine", "Comparing directions …"),
        Figure("task_positions", "cosine", "positions", "Comparing directions …"),
    ),
    "sizes": (
        Figure("norm_profile", "norm_profile", "norms", "Measuring sizes …", 3),
        Figure("trimming_curve", "redundancy", "trimming", "Measuring sizes …", 2),
    ),
    "matrices": (
        Figure("singular_spectra", "spectrum", "spectra", _LATER),
        Figure("matrix_interference_layers", "sti", "matrix-layers", _LATER),
        Figure("subspace_overlap_map", "subspace_overlap", "subspace-map", _LATER),
    ),
}
LABELS = {
    "overview": "Overview",
    "signs": "Signs",
    "masks": "Masks",
    "tasks": "Tasks",
    "sizes": "Sizes",
    "matrices": "Directions",
    "compare": "Compare",
}
"""What each topic's tab says."""
TAB_OF = {figure.id: LABELS[topic] for topic, figures in TOPICS.items() for figure in figures}
TARGETS = {figure.chart: figure.id for figures in TOPICS.values() for figure in figures}


def options(view: View, figure: Figure) -> dict[str, Any]:
    """What a figure is drawn with, beside the selection and the colours."""
    masks = {"mask_threshold": view.threshold}
    known: dict[str, dict[str, Any]] = {
        "mask_agreement_layers": {**masks, "min_tasks": view.min_tasks, "by": view.by},
        "mask_overlap_pairs": masks,
        "mask_upset": {**masks, "order": view.order},
        "trimming_curve": {"density": view.trim},
    }
    return known.get(figure.chart, {})


INTRO = (
    "Do these fine-tunes want opposite things of the same weights? Every figure shows its **chance level** beside it: "
    "what unrelated task vectors of the same sizes would give. Only what lies above chance is evidence. Click a task, "
    "a pair, a layer or a square: it is marked in every other figure, and a second click lets go."
)
TRIM_INFO = (
    "Compare signs only among each task's largest changes, as TIES does before it merges; 1 compares every changed "
    "weight. 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7 and 1 answer at once, others read the weights again."
)
DENOMINATOR_INFO = "What the fractions of trimming and of masks are fractions of; the sizes of the masks say both."
COMPARE_INFO = (
    "The same figure twice, each with settings of its own and on one scale of colours, so that a difference that you "
    "see is one of the settings. What is selected is marked in both."
)
MASK_INFO = (
    "λ of TALL-masks: a weight belongs to a task when its own change is larger than λ times what the other tasks add. "
    "Smaller λ gives fuller masks. Read from stored counts, exact at every step."
)
MATRIX_INFO = (
    "Every weight matrix of every task is decomposed once (some seconds for small models, minutes for large ones), "
    "then kept. It shows whether tasks use the same directions of a layer, which single weights cannot tell."
)
