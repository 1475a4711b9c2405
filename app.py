"""Start the Task Interference Explorer: `python app.py`, then open the address it prints."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

# Before gradio or a hub library is imported: nothing here calls another host, downloads with --hub apart.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "0" if "--hub" in sys.argv else "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from explorer.errors import InputError, all_problems, sentence
from explorer.samples import PACKS, sample_recipe

LOCAL = ("127.0.0.1", "localhost")
TEMP = os.environ.get("GRADIO_TEMP_DIR")
HOST = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of the app."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--host", default=HOST, help="address to listen on; others need --auth")
    parser.add_argument("--port", type=int, default=7860, help="port; the next free one when it is taken")
    parser.add_argument("--samples", choices=list(PACKS), default="text", help="sample models that the page opens on")
    parser.add_argument("--models", type=Path, action="append", default=[], help="another folder of checkpoints")
    parser.add_argument("--tasks", type=Path, action="append", default=[], help="another folder of evaluation tasks")
    parser.add_argument("--hub", action="store_true", help="offer downloads from the Hugging Face hub")
    parser.add_argument("--exports", type=Path, default=Path("exports"), help="folder that exports are written to")
    parser.add_argument("--device", default=None, help="auto, cpu, cuda or cuda:N; auto takes a GPU when there is one")
    parser.add_argument("--budget", type=float, default=6.0, help="memory for models and results, in GiB")
    parser.add_argument("--max-upload", default="2gb", help="largest upload, such as 500mb")
    parser.add_argument("--auth", default=None, metavar="NAME:PASSWORD", help="ask for a name and a password")
    parser.add_argument("--no-cache", action="store_true", help="keep no scores of base and experts between runs")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return parser.parse_args(argv)


def check(arguments: argparse.Namespace) -> None:
    """Raise InputError for arguments that cannot work, all at once."""
    problems = [
        sentence(option, "must be a folder that exists", str(folder), "Check the path.")
        for option, folders in (("--models", arguments.models), ("--tasks", arguments.tasks))
        for folder in folders
        if not folder.is_dir()
    ]
    on_space = "SPACE_ID" in os.environ
    if arguments.host not in LOCAL and not arguments.auth and not on_space:
        advice = "Add --auth NAME:PASSWORD, or listen on 127.0.0.1."
        problems.append(sentence("--host", "other hosts may connect only with a password", arguments.host, advice))
    if arguments.auth and not all(arguments.auth.partition(":")):
        got = "no colon" if ":" not in arguments.auth else "an empty name or password"
        problems.append(sentence("--auth", "must be NAME:PASSWORD", got, "Write --auth me:secret."))
    if not 1 <= arguments.port <= 65535:
        problems.append(sentence("--port", "must be in [1, 65535]", arguments.port, "The default is 7860."))
    if not 0 < arguments.budget < float("inf"):
        problems.append(sentence("--budget", "must be above 0 GiB", arguments.budget, "The default is 6."))
    if not re.fullmatch(r"\d+ ?(b|kb|mb|gb|tb)", arguments.max_upload, re.IGNORECASE):
        problems.append(sentence("--max-upload", "must be a size", repr(arguments.max_upload), "Write 500mb or 2gb."))
    if arguments.exports.exists() and not arguments.exports.is_dir():
        problems.append(sentence("--exports", "must be a folder", f"the file {arguments.exports}", "Give another."))
    if problems:
        raise InputError(all_problems("app", problems))


def launch(arguments: argparse.Namespace, *, block: bool = True) -> object:
    """Build the page and serve it; the running Blocks."""
    started = time.perf_counter()
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from explorer.store import cache_folder
    from explorer.workbench import Workbench
    from viz.panels.page import CSS, SCRIPT, build, theme

    samples = PACKS[arguments.samples]
    bench = Workbench(
        sample_recipe(samples),
        roots=[samples, *arguments.models],
        tasks_folders=[*arguments.tasks, samples / "tasks"],
        exports=arguments.exports,
        device=arguments.device,
        budget_bytes=int(arguments.budget * (1 << 30)),
        cache=None if arguments.no_cache else cache_folder(),
        hub=arguments.hub,
    )
    # What gradio keeps of uploads and downloads goes when the server ends, unless somebody said where to keep it.
    os.environ["GRADIO_TEMP_DIR"] = TEMP or str(bench.scratch / "page")
    page = build(bench)
    # A page of another site must not reach this server through a name that points here (DNS rebinding).
    hosts = ["*"] if arguments.host not in LOCAL else list(LOCAL)
    page.queue(default_concurrency_limit=None, max_size=256)
    _, url, _ = page.launch(
        server_name=arguments.host,
        server_port=_free_port(arguments.host, arguments.port),
        auth=tuple(arguments.auth.split(":", 1)) if arguments.auth else None,
        inbrowser=arguments.open,
        share=False,
        ssr_mode=False,
        show_error=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=arguments.max_upload,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        strict_cors=True,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]},
        theme=theme(),
        css_paths=list(CSS),
        js=SCRIPT,
    )
    seconds = time.perf_counter() - started
    print(f"Task Interference Explorer on {bench.device.title}: {url}  (started in {seconds:.1f} s)", flush=True)
    bench.warm_up()
    if block:
        page.block_thread()
    return page


def _free_port(host: str, wanted: int) -> int:
    import socket

    for port in range(wanted, min(wanted + 100, 65536)):
        with socket.socket() as probe:
            if probe.connect_ex((host if host != "0.0.0.0" else "127.0.0.1", port)) != 0:
                return port
    raise InputError(sentence("--port", "a free port must be found", f"none from {wanted} on", "Choose another."))


def main() -> int:
    """Run until stopped; the exit code."""
    arguments = parse()
    try:
        check(arguments)
        launch(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
