"""Named settings: a method with the parameters that a paper or a library uses for it.

A preset is applied to a recipe: it sets the method and some parameters, and leaves everything else as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from explorer.errors import RecipeError, sentence
from explorer.merging._api import METHODS
from explorer.recipe import Recipe
from explorer.registry import Registry


@dataclass(frozen=True)
class Preset:
    """One named setting.

    `per_role` gives values by the place of a task in the recipe; `roles` says what each place stands for, and how
    many tasks the recipe must have. Without roles any number of tasks that the method takes will do.
    """

    name: str
    title: str
    summary: str
    paper: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    per_role: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The preset as plain values, for `--json` and the docs."""
        by_role = {name: dict(zip(self.roles, values, strict=True)) for name, values in self.per_role.items()}
        texts = {key: getattr(self, key) for key in ("name", "title", "summary", "paper", "method")}
        return {**texts, "parameters": {**self.parameters, **by_role}, "roles": list(self.roles)}

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with this method and these parameters; a task keeps its own values of all other parameters.

        Raises RecipeError when the recipe has another number of tasks than the preset has roles.
        """
        if self.roles and len(recipe.tasks) != len(self.roles):
            must = f"needs {len(self.roles)} tasks, in this order: " + ", ".join(self.roles)
            raise RecipeError(sentence(f"preset {self.name}", must, len(recipe.tasks), "Change the recipe's tasks."))
        set_here = {**self.parameters, **self.per_role}
        known = {s.name for s in METHODS.get(self.method).specs} - set(set_here)
        tasks = tuple(
            replace(
                task,
                parameters={
                    **{k: v for k, v in task.parameters.items() if k in known},
                    **{k: values[place] for k, values in self.per_role.items()},
                },
            )
            for place, task in enumerate(recipe.tasks)
        )
        return replace(recipe, method=self.method, parameters=dict(self.parameters), tasks=tasks)


PRESETS: Registry[Preset] = Registry("preset")
TIES_PAPER = "Resolving Interference When Merging Models"
TALL_PAPER = "Localizing Task Information for Improved Model Merging and Compression"
BREADCRUMBS_PAPER = "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks"
ARITHMETIC_PAPER = "Editing Models with Task Arithmetic"
TIES_CODE = {"density": 0.2, "scope": "model", "sign_rule": "mass", "zero_sign": "majority"}

for _preset in (
    Preset(
        "sphinx_mix",
        "SPHINX mix",
        "The plain average of two models that were tuned on different domains.",
        "SPHINX: The Joint Mixing of Weights, Tasks, and Visual Embeddings for Multi-modal Large Language Models",
        "lerp",
        {"t": 0.5},
    ),
    Preset(
        "negation",
        "Negation",
        "Takes one task's vector away, so that the model forgets the task; tune the scale against a control task.",
        ARITHMETIC_PAPER,
        "task_arithmetic",
        roles=("task to forget",),
        per_role={"scale": (-1.0,)},
    ),
    Preset(
        "analogy",
        "Analogy",
        "A is to B as C is to D: adds τ_C + (τ_B − τ_A) to the base, to stand in for a model of D.",
        ARITHMETIC_PAPER,
        "task_arithmetic",
        roles=("A", "B", "C"),
        per_role={"scale": (-1.0, 1.0, 1.0)},
    ),
    Preset(
        "ties_authors",
        "TIES as its authors run it",
        "Keeps the largest 20 % of each task vector over the whole model, elects signs by mass, averages what agrees.",
        TIES_PAPER,
        "ties",
        {
            "density": 0.2,
            "scope": "model",
            "sign_rule": "mass",
            "zero_sign": "majority",
            "reduce": "mean",
            "scale": 1.0,
        },
    ),
    Preset(
        "ties_fusionbench",
        "TIES as in FusionBench",
        "Trims to 20 % over the whole model, adds what agrees instead of averaging it, and scales the sum by 0.3.",
        TIES_PAPER,
        "ties",
        {**TIES_CODE, "reduce": "sum", "scale": 0.3},
    ),
    Preset(
        "ties_mergekit",
        "TIES as in mergekit",
        "Trims to an exact count per tensor, counts a tie as positive, and divides by the weights that agree.",
        "Arcee's MergeKit: A Toolkit for Merging Large Language Models",
        "ties",
        {
            **{"density": 0.5, "scope": "tensor", "trim_count": "exact", "zero_sign": "positive"},
            **{"reduce": "mean", "divisor": "weights", "scale": 1.0},
        },
    ),
    Preset(
        "ties_peft",
        "TIES as in PEFT",
        "Trims to an exact count per tensor, counts a tie as positive, and divides by the number of tasks that agree.",
        "PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods (library)",
        "ties",
        {
            **{"density": 0.2, "scope": "tensor", "trim_count": "exact", "zero_sign": "positive"},
            **{"reduce": "mean", "divisor": "count", "scale": 1.0},
        },
    ),
    Preset(
        "breadcrumbs_paper",
        "Model Breadcrumbs as in the paper",
        "Drops the smallest 85 % and the largest 0.7 % of each tensor's changes and adds the rest at 0.3.",
        BREADCRUMBS_PAPER,
        "breadcrumbs",
        {"drop_smallest": 0.85, "drop_largest": 0.007, "scope": "tensor", "count_rule": "drop", "scale": 0.3},
    ),
    Preset(
        "breadcrumbs_authors",
        "Model Breadcrumbs as its authors run it",
        "Counts along rows: removes the largest 0.6 % of each, keeps the next 15 %, and adds them at 0.2.",
        BREADCRUMBS_PAPER,
        "breadcrumbs",
        {"drop_smallest": 0.844, "drop_largest": 0.006, "scope": "row", "count_rule": "keep", "scale": 0.2},
    ),
    Preset(
        "consensus_ta",
        "Consensus TA",
        "Task arithmetic on the weights that at least two tasks claim with their TALL masks.",
        TALL_PAPER,
        "consensus",
        {"multi_task_vector": "task_arithmetic", "mask_threshold": 0.4, "min_tasks": 2, "scale": 0.3},
    ),
    Preset(
        "consensus_ties",
        "Consensus TIES",
        "TIES, summed, on the weights that at least two tasks claim with their TALL masks.",
        TALL_PAPER,
        "consensus",
        {"multi_task_vector": "ties", "density": 0.2, "mask_threshold": 0.4, "min_tasks": 2, "scale": 1.0},
    ),
):
    PRESETS.add(_preset)
