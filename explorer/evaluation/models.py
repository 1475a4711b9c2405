"""Modules to evaluate: an architecture without weights, bound to weights that live elsewhere.

A live merge rewrites its row in place and runs the same module again: the module's parameters *are* that row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from explorer.errors import CheckpointError, all_problems, near, sentence
from explorer.evaluation._locks import TRANSFORMERS

_LEFT_OUT = ("auto_map", "dtype", "torch_dtype", "_attn_implementation", "attn_implementation", "quantization_config")
_DRAWS = ("normal_", "uniform_", "random_", "bernoulli_", "exponential_", "erfinv_")
_INITIALISERS = (
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
)
_RANDOM_NEW = {torch.randn: torch.empty, torch.rand: torch.empty}
NAMED_AT_MOST = 5
_POOLER = {"AutoModel": {"add_pooling_layer": False}}


class _NothingRandom(TorchFunctionMode):
    """Constructs modules without drawing a number: initial weights are overwritten anyway.

    Unlike the meta device it leaves buffers (positions, rotary tables) real, and the global random state untouched.
    Functions are known by name because transformers swaps torch's own initialisers while it constructs.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in (*_DRAWS, *_INITIALISERS):
            return args[0] if args else kwargs["tensor"]
        return _RANDOM_NEW.get(func, func)(*args, **kwargs)


def build_module(
    checkpoint_config: Mapping[str, Any] | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    auto: str = "AutoModel",
    overrides: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The architecture of a Hugging Face configuration, in evaluation mode, its parameters still without values.

    `auto`: the class of transformers that makes it, such as AutoModelForCausalLM; `overrides` replace entries of the
    configuration, such as the number of labels.
    `checkpoint_config` is the content of config.json, that file, or its folder. Parameters lie on the meta device
    until `bind` gives them tensors, so an unbound module cannot answer. There is no random pooler; code shipped with
    a checkpoint is never run, nothing is fetched.
    Raises CheckpointError when transformers does not know the architecture or cannot make it of this configuration.
    """
    config = {**_read_config(checkpoint_config), **(overrides or {})}
    with TRANSFORMERS, _quiet():
        module = _construct({k: v for k, v in config.items() if k not in _LEFT_OUT}, dtype, auto)
    empty: dict[tuple[int, str], nn.Parameter] = {}
    apart = _last_layer(module) if config.get("tie_word_embeddings") is False else ""
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, nn.Parameter):
            fresh = nn.Parameter(torch.empty_like(tensor, device="meta"), requires_grad=False)
            _assign(module, name, empty.setdefault((id(tensor), name if name == apart else ""), fresh))
    for name, buffer in list(module.named_buffers(remove_duplicate=False)):
        _assign(module, name, buffer.to(device))
    return module.eval()


def bind(module: nn.Module, views: Mapping[str, Tensor], head: Mapping[str, Tensor] | None = None) -> tuple[str, ...]:
    """Makes the module's parameters *be* the given tensors, without a copy; returns the names it had no use for.

    Writing into a tensor of `views` afterwards changes what the module answers. Tied parameters share one tensor,
    under whichever of their names it is given. Names may carry or lack a prefix such as `bert.`. Floating buffers
    (BatchNorm statistics) are bound like parameters; other buffers only where they are given. Tensors of `head` go
    before those of `views`: layers on top of a backbone that are a task's own.
    Raises CheckpointError naming every parameter that is missing or has another shape or dtype; then nothing is bound.
    """
    state = module.state_dict(keep_vars=True)
    found = resolve(module, state, views)
    unused = set(views) - set(found.values())
    if head:
        views = {**views, **{f"head {n}": t for n, t in head.items()}}
        found |= {own: f"head {given}" for own, given in resolve(module, state, head).items()}
    aliases: dict[int, list[str]] = {}
    for name, tensor in state.items():
        aliases.setdefault(id(tensor), []).append(name)
    chosen: dict[str, Tensor] = {}
    missing: list[str] = []
    problems: list[str] = []
    for names in aliases.values():
        given = [found[n] for n in names if n in found]
        if not given:
            missing += names[:1] if state[names[0]].is_floating_point() else []
            continue
        problems += _mismatch(names[0], state[names[0]], [views[g] for g in given])
        chosen.update(dict.fromkeys(names, views[given[0]]))
    if missing:
        problems.insert(0, _missing_message(missing, views))
    if problems:
        raise CheckpointError(all_problems("bind", problems))
    parameters = {id(t): nn.Parameter(t, requires_grad=False) for t in chosen.values() if t.is_floating_point()}
    for name, tensor in chosen.items():
        _assign(module, name, parameters[id(tensor)] if isinstance(state[name], nn.Parameter) else tensor)
    return tuple(sorted(unused))


def parameters_by_name(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The module's parameters under a checkpoint's names; names that it has no use for, and buffers, are left out."""
    state = module.state_dict(keep_vars=True)
    found = resolve(module, state, dict.fromkeys(names))
    return {given: state[own] for own, given in found.items() if isinstance(state[own], nn.Parameter)}


def _read_config(source: Mapping[str, Any] | Path) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    path = Path(source) / "config.json" if Path(source).is_dir() else Path(source)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        must, advice = "must be a readable config.json", "Take the folder as it was downloaded."
        raise CheckpointError(sentence(str(path), must, str(error), advice)) from error
    if not isinstance(config, dict):
        raise CheckpointError(sentence(str(path), "must hold a JSON object", type(config).__name__, "See config.json."))
    return config


def _construct(config: dict[str, Any], dtype: torch.dtype, auto: str) -> nn.Module:
    import transformers
    from transformers import CONFIG_MAPPING, AutoConfig

    from explorer.evaluation import efficientnet_lite

    efficientnet_lite.register()
    kind = config.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        must = "model_type in config.json must be an architecture that the installed transformers knows"
        advice = near(str(kind), CONFIG_MAPPING) if kind else "Add model_type to config.json."
        advice = advice if len(advice) < 200 else "Code shipped with a checkpoint is not run."
        raise CheckpointError(sentence("build_module", must, repr(kind), advice))
    try:
        made = AutoConfig.for_model(kind, **config)
        maker = getattr(transformers, auto)
        with _NothingRandom():
            try:
                return maker.from_config(made, dtype=dtype, **_POOLER.get(auto, {}))
            except TypeError as error:
                if "add_pooling_layer" not in str(error):
                    raise
                return maker.from_config(made, dtype=dtype)
    except Exception as error:
        got = " ".join(str(error).split())[:300] or type(error).__name__
        must = f"config.json must describe a {kind} model that transformers can make"
        raise CheckpointError(sentence("build_module", must, got, "Take the config.json of the base.")) from error


def _last_layer(module: nn.Module) -> str:
    """Name of the weight that makes scores of words; transformers ties T5's even where config.json says otherwise."""
    last = getattr(module, "get_output_embeddings", lambda: None)()
    return next((f"{name}.weight" for name, part in module.named_modules() if part is last), "") if last else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its notes about configurations: what matters is raised."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    # setattr, not _parameters[...]: recurrent layers keep a second list of their weights that it updates.
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, tensor)


def resolve(module: nn.Module, state: Mapping[str, Any], views: Mapping[str, Any]) -> dict[str, str]:
    """Module name -> given name, under the one prefix (added or taken away) that finds the most.

    What it does not find goes by its own name: a head has no prefix beside a backbone that lacks it.
    """
    prefix = f"{getattr(module, 'base_model_prefix', '') or 'model'}."
    first = next(iter(state), "")
    prefixes = ["", prefix, *sorted({v[: -len(first)] for v in views if v.endswith("." + first)}, key=len)]
    candidates = [{n: p + n for n in state if p + n in views} for p in prefixes]
    candidates.append({n: n[len(prefix) :] for n in state if n.startswith(prefix) and n[len(prefix) :] in views})
    best = max(candidates, key=len)
    return {**candidates[0], **best}


def _mismatch(name: str, wanted: Tensor, given: list[Tensor]) -> list[str]:
    tensor = given[0]
    if tensor.shape != wanted.shape:
        got = f"{tuple(tensor.shape)}"
        return [
            sentence("bind", f"{name} must have shape {tuple(wanted.shape)}", got, "Use a checkpoint of this base.")
        ]
    if tensor.dtype != wanted.dtype:
        advice = "Convert it once before binding; bind makes no copy."
        return [sentence("bind", f"{name} must be {wanted.dtype}", str(tensor.dtype), advice)]
    if any(not (t.data_ptr() == tensor.data_ptr() or torch.equal(t, tensor)) for t in given[1:]):
        return [sentence("bind", f"the aliases of {name} must be equal", "different values", "Tie them before saving.")]
    return []


def _missing_message(missing: list[str], views: Mapping[str, Any]) -> str:
    more = f" and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
    got = f"none for {', '.join(missing[:NAMED_AT_MOST])}{more}"
    some = ", ".join(list(views)[:2])
    hint = f"The given names look like {some}." if some else "No tensors were given."
    return sentence(
        "bind", "must be given a tensor for every parameter", got, f"Use weights of this architecture. {hint}"
    )
