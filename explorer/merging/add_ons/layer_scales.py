"""Layer scales: one factor per tensor or group of tensors, written by hand or learned elsewhere."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from explorer.merging._add_ons import add_on
from explorer.params import PerBlock, Range


@add_on(
    title="Layer scales",
    paper="AdaMerging: Adaptive Model Merging for Multi-Task Learning; Knowledge Composition using Task Vectors with "
    "Learned Anisotropic Scaling (both per task: give `scale` itself per tensor for that)",
    formula="τ ← s(name) · τ",
    when="You want some layers of the merge stronger or weaker, or hold coefficients that were learned elsewhere.",
    when_not="Every layer gets the same factor: that is the method's own scale.",
)
def layer_scales(
    merged: Tensor,
    *,
    scale: Annotated[
        float, Range(-1, 2, step=0.01), PerBlock(), "factor; a mapping of tensor-name patterns to factors is the use"
    ] = 1.0,
) -> float:
    """Multiplies the merged task vector by a factor for each tensor, found by name patterns.

    Shapes: merged [n] or [T, n]; returns one factor. The first pattern that matches counts, a tensor's own name
    before all patterns; tensors that none matches keep their values.
    """
    return scale
