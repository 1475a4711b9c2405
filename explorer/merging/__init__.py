"""Merge methods, one function each, and the one way to run them."""

from explorer.merging._add_ons import ADD_ONS, AddOn, add_on, check_add_ons
from explorer.merging._api import METHODS, Method, method
from explorer.merging._contribution_table import CONTRIBUTIONS, contribution_table
from explorer.merging._contributions import Reference, Sums, contribution_sums, reference_sums
from explorer.merging._inputs import require_given, require_tasks
from explorer.merging._pieces import MergedPiece, merge_piece, piece_bytes, pieces
from explorer.merging._run import Prepared, cast, merge_chunk, merge_deltas, merge_into, merge_tensor, plan, prepare
from explorer.merging._statistics import Statistics
from explorer.merging._survival import survival, survival_table, tensor_sums

__all__ = [
    "ADD_ONS",
    "CONTRIBUTIONS",
    "METHODS",
    "AddOn",
    "MergedPiece",
    "Method",
    "Prepared",
    "Reference",
    "Statistics",
    "Sums",
    "add_on",
    "cast",
    "check_add_ons",
    "contribution_sums",
    "contribution_table",
    "merge_chunk",
    "merge_deltas",
    "merge_into",
    "merge_piece",
    "merge_tensor",
    "method",
    "piece_bytes",
    "pieces",
    "plan",
    "prepare",
    "reference_sums",
    "require_given",
    "require_tasks",
    "survival",
    "survival_table",
    "tensor_sums",
]
