"""Commands for mergekit's recipes: the options of `merge` that its users know, and `mergekit`, which explains them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.errors import ParameterError, sentence
from explorer.recipe import Recipe
from explorer.terminal import print_json, progress_line

if TYPE_CHECKING:
    from explorer.mergekit.running import Options
    from explorer.mergekit.schema import RecipeFile

_NOTHING = {
    "lazy_unpickle": "files are always read tensor by tensor",
    "low_cpu_memory": "memory is bounded by the largest tensors anyway",
    "read_to_gpu": "tensors are read piece by piece",
    "multi_gpu": "one device computes",
    "clone_tensors": "a layer may stand several times anyway",
    "async_write": "results are written while the next are computed",
    "write_threads": "files are written in order",
    "num_threads": "threads follow from the machine; OMP_NUM_THREADS limits them",
    "safe_serialization": "the output is always safetensors",
    "trust_remote_code": "no code of a model is ever run",
    "transformers_cache": "the Hugging Face cache is used; HF_HOME moves it",
    "lora_merge_cache": "adapters are put on while reading, nothing is kept",
    "lora_merge_dtype": "adapters are put on in float32",
    "verbosity": "everything there is to say is said",
}
_SWITCHES = ("lazy_unpickle", "low_cpu_memory", "read_to_gpu", "multi_gpu", "clone_tensors", "async_write")


def add_merge_options(merge: argparse.ArgumentParser) -> None:
    """The options of mergekit's own command; those that have nothing to do here are taken and noted."""
    both = argparse.BooleanOptionalAction
    merge.add_argument("--random-seed", type=int, metavar="N", help="seed of random methods (default 0)")
    merge.add_argument("--cuda", action="store_true", help="mergekit recipes: compute on a GPU")
    merge.add_argument("--device", metavar="NAME", help="mergekit recipes: cpu, cuda, cuda:1 or auto")
    merge.add_argument("--copy-tokenizer", action=both, default=True, help="mergekit recipes: write a tokenizer")
    merge.add_argument("--write-model-card", action=both, default=True, help="mergekit recipes: write README.md")
    merge.add_argument("--allow-crimes", action="store_true", help="mergekit recipes: let architectures be mixed")
    quiet = argparse.SUPPRESS
    for name in _SWITCHES:
        merge.add_argument(f"--{name.replace('_', '-')}", action=both, default=None, help=quiet)
    merge.add_argument("--safe-serialization", action=both, default=None, help=quiet)
    merge.add_argument("--trust-remote-code", action=both, default=None, help=quiet)
    merge.add_argument("--gpu-rich", action="store_true", help=quiet)
    merge.add_argument("--unsafe-truncate-embeddings", action="store_true", help=quiet)
    merge.add_argument("--quiet", action="store_true", help=quiet)
    merge.add_argument("-v", "--verbose", "--verbosity", dest="verbosity", action="count", default=None, help=quiet)
    merge.add_argument("-j", "--num-threads", type=int, default=None, help=quiet)
    for name in ("transformers_cache", "lora_merge_cache", "lora_merge_dtype", "write_threads"):
        merge.add_argument(f"--{name.replace('_', '-')}", default=None, help=quiet)


def add_command(commands: Any) -> None:
    """Declare `mergekit` to the parser."""
    command = commands.add_parser("mergekit", help="explain a mergekit recipe, or write one of ours as such")
    command.add_argument("recipe", type=Path, metavar="FILE.yml", help="a mergekit recipe, or one of ours")
    command.add_argument("--allow-crimes", action="store_true", help="let architectures be mixed")
    command.add_argument("--json", action="store_true", help="print JSON for other programs")


def mergekit_recipe(path: Path) -> RecipeFile | None:
    """The file as mergekit recipes, or None where it is a recipe of ours (or cannot be read: ours says so)."""
    from explorer.mergekit.reading import is_mergekit, read_text

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    return read_text(text, source=str(path)) if is_mergekit(text) else None


def notes(arguments: argparse.Namespace, *, ours: bool) -> list[str]:
    """What to say of options that change nothing."""
    given = [name for name in _NOTHING if getattr(arguments, name, None) is not None]
    texts = [f"--{name.replace('_', '-')} changes nothing: {_NOTHING[name]}." for name in given]
    if ours:
        plain = {
            "cuda": False,
            "device": None,
            "copy_tokenizer": True,
            "write_model_card": True,
        }
        used = [n for n, default in plain.items() if getattr(arguments, n) != default]
        texts += [f"--{n.replace('_', '-')} is for mergekit recipes; this one is ours." for n in used]
    return texts


def say_notes(arguments: argparse.Namespace, *, ours: bool) -> None:
    """Print the notes where they disturb no output."""
    if not arguments.quiet:
        for text in notes(arguments, ours=ours):
            print(f"note: {text}", file=sys.stderr)


def seeded(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """Our recipe with the seed of the command line, where one was given."""
    return recipe if arguments.random_seed is None else replace(recipe, seed=arguments.random_seed)


def options_of(arguments: argparse.Namespace) -> Options:
    """The options of a run. Raises ParameterError for what is not there."""
    from explorer.mergekit.running import Options

    for name, advice in (
        ("unsafe_truncate_embeddings", "Bring the vocabularies together before merging."),
        ("preset", "Presets are for recipes of ours."),
        ("set", "Change the recipe itself."),
        ("add_on", "Add-ons are for recipes of ours."),
    ):
        if getattr(arguments, name, None):
            who = f"--{name.replace('_', '-')}"
            raise ParameterError(sentence(who, "does not work on mergekit recipes", "it", advice))
    return Options(
        seed=arguments.random_seed or 0,
        device=_device(arguments),
        shard_bytes=arguments.out_shard_size,
        copy_tokenizer=arguments.copy_tokenizer,
        model_card=arguments.write_model_card,
        overwrite=arguments.overwrite,
        allow_crimes=arguments.allow_crimes,
    )


def _device(arguments: argparse.Namespace) -> str:
    import torch

    wanted = arguments.device or ("cuda" if arguments.cuda or arguments.gpu_rich else "cpu")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(wanted).type
    except RuntimeError as error:
        raise ParameterError(sentence("--device", "must be cpu, cuda or cuda:N", repr(wanted), "Use cpu.")) from error
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        advice = "Leave --cuda out to compute on the processor."
        raise ParameterError(sentence("--device", "must be a device of this machine", repr(wanted), advice))
    return wanted


def run_merge(file: RecipeFile, arguments: argparse.Namespace) -> int:
    """`merge` of a mergekit recipe."""
    from explorer.checkpoints.hub import download
    from explorer.mergekit.recipes import run_file

    say_notes(arguments, ours=False)
    for text in file.warnings:
        print(f"warning: {text}", file=sys.stderr)
    if arguments.plan:
        return run_explain(arguments)
    options = options_of(arguments)
    made = {d.name for d in file.documents}
    named = [m for d in file.documents for m in d.models if m.path not in made]
    texts = [t for m in named for t in (m.opened, m.lora_opened) if t]
    progress = None if arguments.quiet else progress_line
    download(texts if arguments.hub else (), progress=progress)
    done = run_file(file, arguments.out_dir, options, progress=progress)
    for text in done.plan.warnings:
        print(f"warning: {text}", file=sys.stderr)
    checked = _verified(done.path, done.total_bytes, arguments.verify)
    if arguments.json:
        plain = {"path": done.path, "total_bytes": done.total_bytes, "seconds": done.seconds, "semantics": "mergekit"}
        print_json({**plain, "method": done.plan.method.name, "seed": options.seed})
        return 0
    print(f"wrote {done.path}  ({done.total_bytes:,} bytes in {done.seconds:.1f} s)")
    print("\n".join(checked), end="\n" if checked else "")
    print(f"by {done.plan.method.title} with mergekit's semantics; `mergekit {file.source}` tells how ours differs")
    return 0


def _verified(folder: Path, size: int, wanted: bool | None) -> tuple[str, ...]:
    """What holds of the output, read back; nothing where nobody asks. Raises OutputError with what does not hold."""
    from explorer.verifying import VERIFY_BYTES, verify_folder

    if not (size < VERIFY_BYTES if wanted is None else wanted):
        return ()
    found = verify_folder(folder)
    found.require(str(folder))
    return found.held


def run_explain(arguments: argparse.Namespace) -> int:
    """`mergekit`: what a mergekit recipe does; of a recipe of ours, the mergekit YAML and what that cannot say."""
    from explorer.mergekit.explaining import explain, explanation
    from explorer.mergekit.recipes import Limits

    file = mergekit_recipe(arguments.recipe)
    if file is None:
        return _export(arguments)
    told = explain(file, Limits(allow_crimes=arguments.allow_crimes))
    if arguments.json:
        print_json(told)
    else:
        print(explanation(told))
    return 2 if told["problems"] else 0


def _export(arguments: argparse.Namespace) -> int:
    from explorer.mergekit.exporting import to_mergekit

    text, said = to_mergekit(Recipe.load(arguments.recipe))
    if arguments.json:
        print_json({"yaml": text, "notes": list(said)})
    else:
        print("\n".join([*(f"# {note}" for note in said), (text or "").rstrip()]))
    return 0 if text else 2
