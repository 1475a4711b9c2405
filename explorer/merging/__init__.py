"""Merge methods, one function each, and the one way to run them."""

from explorer.merging._api import METHODS, Method, method
from explorer.merging._run import Prepared, cast, merge_chunk, merge_into, merge_tensor, plan, prepare
from explorer.merging._statistics import Statistics
from explorer.merging._survival import survival, survival_table, tensor_sums

__all__ = [
    "METHODS",
    "Method",
    "Prepared",
    "Statistics",
    "cast",
    "merge_chunk",
    "merge_into",
    "merge_tensor",
    "method",
    "plan",
    "prepare",
    "survival",
    "survival_table",
    "tensor_sums",
]
