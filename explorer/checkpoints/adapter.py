"""PEFT LoRA adapters: what adapter_config.json says, and which factors the file holds for which module.

A LoRA changes a weight by ΔW = s · B @ A, with s = alpha / r, or alpha / √r when rank-stabilised. Whatever else an
adapter may do (DoRA's magnitudes, biases, a changed base, other kinds of adapter) is refused in words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from explorer.checkpoints.handle import Checkpoint, TensorInfo
from explorer.errors import CheckpointError, all_problems, sentence

CONFIG_FILE = "adapter_config.json"
MERGE_FIRST = "Merge it into its base (merge_and_unload) and save the whole model; that can be a task."
_CONVERT = (
    "Save it again with path_initial_model_for_weight_conversion, or merge it into its base (merge_and_unload) and "
    "save the whole model."
)
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_NOT_HANDLED = (
    *("layer_replication", "target_parameters", "alora_invocation_tokens", "trainable_token_indices", "lora_bias"),
    *("use_qalora", "use_bdlora", "arrow_config"),
)
_FACTOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])"
    r"(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?(?P<weight>\.weight)?"
)
_WHOLE = re.compile(r"base_model\.model\.(?P<name>.+)")
_SAVED = re.compile(r"\.modules_to_save(?:\.[^.]+)?(?=\.)|\.base_layer(?=\.)")
_QUANTIFIER = re.compile(r"(?<![\\(])[*+?{]")
_MAX_QUANTIFIERS = 3
_MAX_MATCHED = 200  # longer names are compared as they are: a pattern of a stranger must not run for minutes
_SHOWN_PROBLEMS = 10


@dataclass(frozen=True)
class Settings:
    """The part of adapter_config.json that ΔW depends on; `plain` is the whole of it."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, Any]
    alpha_pattern: Mapping[str, Any]
    use_rslora: bool
    fan_in_fan_out: bool
    bias: str
    modules_to_save: tuple[str, ...]
    plain: Mapping[str, Any]

    @property
    def trained_on(self) -> str:
        """The base that the adapter names, or "the base it was trained on"."""
        named = self.plain.get("base_model_name_or_path")
        return named if isinstance(named, str) and named else "the base it was trained on"

    def rank_of(self, module: str) -> float:
        """The rank that the settings give a module: that of the first pattern that matches, else the common one."""
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str, rank: int) -> float:
        """s of a module: alpha / r, or alpha / √r when rank-stabilised."""
        alpha = _by_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True)
class Factors:
    """The two factors of one module: A [r, in, ...] and B [out, r, 1 ...], and s.

    Of an embedding A is [r, vocabulary] and B [dimension, r]; its ΔW is the product transposed.
    """

    module: str
    a: TensorInfo
    b: TensorInfo
    scale: float
    embedding: bool

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[0]


@dataclass(frozen=True, eq=False)
class Adapter(Checkpoint):
    """A LoRA on disk, not yet on a base. `whole`: (name in the base, name in the file) of tensors saved in full."""

    settings: Settings
    factors: tuple[Factors, ...]
    whole: tuple[tuple[str, str], ...]

    @staticmethod
    def of(file: Checkpoint, plain: Mapping[str, Any]) -> Adapter:
        """The adapter in an opened file, with the content of its adapter_config.json.

        Raises CheckpointError with everything that cannot be handled.
        """
        settings = _settings(str(file.path), plain)
        factors, whole = _sorted_out(file, settings)
        ranks = sorted({f.rank for f in factors} or {settings.rank})
        shown = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        style = ", rank-stabilised" if settings.use_rslora else ""
        format = f"PEFT adapter, r={shown}, alpha={settings.alpha:g}{style}"
        stamps = file.stamps
        return Adapter(file.path, file.name, format, file.infos, stamps, {}, settings, factors, whole)


@lru_cache(maxsize=8192)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern that may match a module's whole path, or its end after a dot."""
    return re.compile(rf"(?:.*\.)?(?:{pattern})")


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: float) -> float:
    for pattern, value in patterns.items():
        if pattern == module or (len(module) <= _MAX_MATCHED and _compiled(pattern).fullmatch(module)):
            return float(value)
    return otherwise


def _settings(who: str, plain: Mapping[str, Any]) -> Settings:
    """The settings. Raises CheckpointError naming all that is wrong, or not handled."""
    problems = _not_handled(who, plain)
    rank, alpha = plain.get("r", 8), plain.get("lora_alpha", 8)
    if not problems:
        if type(rank) is not int or rank < 1:
            problems.append(_mend(who, "r must be a whole number of at least 1", rank))
        if not _is_number(alpha):
            problems.append(_mend(who, "lora_alpha must be a finite number", alpha))
        for key in ("rank_pattern", "alpha_pattern"):
            problems += _pattern_problems(who, key, plain.get(key) or {})
        saved = plain.get("modules_to_save") or []
        if not isinstance(saved, list) or not all(isinstance(m, str) and m for m in saved):
            problems.append(_mend(who, "modules_to_save must list names of modules", saved))
    if problems:
        raise CheckpointError(all_problems(who, problems))
    return Settings(
        rank,
        float(alpha),
        plain.get("rank_pattern") or {},
        plain.get("alpha_pattern") or {},
        use_rslora=bool(plain.get("use_rslora")),
        fan_in_fan_out=bool(plain.get("fan_in_fan_out")),
        bias=str(plain.get("bias") or "none"),
        modules_to_save=tuple(plain.get("modules_to_save") or ()),
        plain=dict(plain),
    )


def _not_handled(who: str, plain: Mapping[str, Any]) -> list[str]:
    """One sentence per setting that makes the adapter more than s · B @ A."""
    kind, start = plain.get("peft_type"), plain.get("init_lora_weights")
    if kind != "LORA":
        return [sentence(who, "a PEFT adapter must be a LoRA (peft_type LORA)", repr(kind)[:80], MERGE_FIRST)]
    problems = []
    if plain.get("use_dora"):
        must = "an adapter must be plain LoRA; DoRA also rescales the base's weights"
        problems.append(sentence(who, must, "use_dora true", MERGE_FIRST))
    if not any(start is plain_start or start == plain_start for plain_start in _PLAIN_STARTS):
        must = "an adapter must leave its base as it is; this initialisation changes the base's weights"
        problems.append(sentence(who, must, f"init_lora_weights {start!r}"[:80], _CONVERT))
    for key in (k for k in _NOT_HANDLED if plain.get(k)):
        must = f"an adapter must be plain LoRA, without {key}"
        problems.append(sentence(who, must, repr(plain[key])[:80], MERGE_FIRST))
    return problems


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _mend(who: str, must: str, got: Any) -> str:
    return sentence(who, f"{CONFIG_FILE}: {must}", repr(got)[:80], "Copy the adapter again.")


def _pattern_problems(who: str, key: str, patterns: Any) -> list[str]:
    """What is wrong with one table of patterns; nested repetitions are refused, for they can run for ever."""
    if not isinstance(patterns, dict) or not all(_is_number(v) for v in patterns.values()):
        return [_mend(who, f"{key} must give numbers by module", patterns)]
    problems = []
    for pattern in patterns:
        nested = re.search(r"\)\s*[*+{]", pattern) or len(_QUANTIFIER.findall(pattern)) > _MAX_QUANTIFIERS
        try:
            _compiled(pattern)
        except (re.error, RecursionError):
            nested = True
        if nested or len(pattern) > 500:
            problems.append(_mend(who, f"{key} must name modules, or patterns without repeated groups", pattern))
    return problems


def _sorted_out(file: Checkpoint, settings: Settings) -> tuple[tuple[Factors, ...], tuple[tuple[str, str], ...]]:
    """The file's tensors as pairs of factors and as whole tensors. Raises CheckpointError for any other."""
    pairs: dict[tuple[str, bool], dict[str, list[TensorInfo]]] = {}
    whole: list[tuple[str, str]] = []
    problems = []
    for name, info in file.tensors.items():
        match, plain = _FACTOR.fullmatch(name), _WHOLE.fullmatch(name)
        if match and bool(match["weight"]) != bool(match["embedding"]):
            pair = pairs.setdefault((match["module"], bool(match["embedding"])), {"A": [], "B": []})
            pair[match["factor"]].append(info)
        elif plain and "lora_" not in name and _is_whole(plain["name"], settings):
            whole.append((_SAVED.sub("", plain["name"]), name))
        else:
            problems.append(_strange(str(file.path), name))
    factors = []
    for (module, embedding), pair in sorted(pairs.items()):
        problem = _pair_problem(module, pair, settings)
        if problem:
            problems.append(sentence(str(file.path), *problem, MERGE_FIRST))
            continue
        (a,), (b,) = pair["A"], pair["B"]
        factors.append(Factors(module, a, b, settings.scale_of(module, a.shape[0]), embedding))
    if not factors and not problems:
        must = "an adapter must hold LoRA factors (lora_A and lora_B)"
        problems.append(sentence(str(file.path), must, "none", "Copy the adapter again."))
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        raise CheckpointError(all_problems(str(file.path), problems[:_SHOWN_PROBLEMS] + more))
    return tuple(factors), tuple(sorted(whole))


def _is_whole(name: str, settings: Settings) -> bool:
    """True for a tensor that stands for itself: of a module in modules_to_save, or a weight saved beside (embeddings).

    PEFT takes a module when its path ends with the listed name, so the tensor's path holds that name somewhere.
    """
    saved = any(f".{module}." in f".{name}." for module in settings.modules_to_save)
    return saved or ".modules_to_save." in name or name.endswith(".weight")


def _strange(who: str, name: str) -> str:
    if "magnitude_vector" in name:
        must = "an adapter must be plain LoRA; DoRA also rescales the base's weights"
        return sentence(who, must, f"tensor {name}", MERGE_FIRST)
    if name.endswith(".bias"):
        must = "an adapter must train no biases (bias none)"
        return sentence(who, must, f"tensor {name}", MERGE_FIRST)
    must = "an adapter must hold only lora_A, lora_B and modules_to_save under base_model.model."
    return sentence(who, must, f"tensor {name}", MERGE_FIRST)


def _pair_problem(module: str, pair: Mapping[str, list[TensorInfo]], settings: Settings) -> tuple[str, str] | None:
    """What must hold of a module's two factors, and what is there instead; None when all is well."""
    if len(pair["A"]) != 1 or len(pair["B"]) != 1:
        return f"module {module} must have one lora_A and one lora_B", f"{len(pair['A'])} and {len(pair['B'])}"
    (a,), (b,) = pair["A"], pair["B"]
    kernel_of_b = list(b.shape[2:])
    fitting = len(a.shape) == len(b.shape) >= 2 and b.shape[1] == a.shape[0] and kernel_of_b == [1] * len(kernel_of_b)
    if not (fitting and a.is_float and b.is_float and a.numel):
        must = f"module {module} must have float factors of shapes [r, in, ...] and [out, r, 1 ...]"
        return must, f"{list(a.shape)} and {list(b.shape)}"
    stated = settings.rank_of(module)
    if stated != a.shape[0]:
        return f"module {module} must have the rank {stated:g} that {CONFIG_FILE} states", str(a.shape[0])
    return None
