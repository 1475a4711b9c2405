"""One output tensor of a plan, merged with mergekit's semantics and rounded once to what it is stored in."""

from __future__ import annotations

import torch
from torch import Tensor

from explorer.errors import CheckpointError, sentence
from explorer.mergekit import own_methods, task_vectors
from explorer.mergekit.combinations import COMBINATIONS, seen_from
from explorer.mergekit.feed import Feed
from explorer.mergekit.inputs import Out, stored_dtype
from explorer.mergekit.plan import Plan


def merge_out(plan: Plan, out: Out, *, seed: int = 0, device: torch.device | None = None) -> Tensor:
    """The merged tensor in its stored dtype and shape.

    Raises CheckpointError where an input or the result is not finite, or a tensor of whole numbers differs.
    """
    if out.copied:
        return _copied(plan, out)
    if plan.method.name == "passthrough" and out.each[0]["scale"] is None:
        model, name = out.inputs[0]
        if stored_dtype(plan.models[model], name) == out.dtype == plan.models[model].info(name).dtype:
            return plan.models[model].read(name)
    wide = plan.document.dtype == "float64"
    feed = Feed(out, plan.models, against=seen_from(plan.method.name), wide=wide, device=device, seed=seed)
    return _merge(plan, feed)


def _merge(plan: Plan, feed: Feed) -> Tensor:
    method, shared = plan.method, feed.out.shared
    if method.family == "task_vectors":
        return task_vectors.merge(feed, method)
    if method.name == "nuslerp" and not shared["nuslerp_flatten"]:
        return own_methods.nuslerp_rows(feed)
    if method.name == "model_stock" and shared["filter_wise"]:
        return own_methods.model_stock_rows(feed)
    if method.name in COMBINATIONS:
        return COMBINATIONS[method.name][1](feed)
    return own_methods.OWN[method.name](feed)


def _copied(plan: Plan, out: Out) -> Tensor:
    """A tensor of whole numbers, which all inputs must share."""
    first, *others = (plan.models[model].read(name) for model, name in out.inputs)
    if any(not torch.equal(first, other) for other in others):
        must, got = f"{out.name} holds no floats, so all models must have the same", "different values"
        raise CheckpointError(sentence("merge", must, got, "Leave out the models that differ."))
    return first
