"""Models of the Hugging Face hub: from the cache without network, downloaded only on request; here from a fake hub."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from workbench_zoo import make_bench, make_models, recipe_of, write_recipe

from explorer.checkpoints import hub, open_checkpoint
from explorer.cli import main, named_tasks
from explorer.errors import Cancelled, CheckpointError, InputError, PathError
from explorer.executor import CancelToken, Progress
from explorer.opening import open_models
from explorer.recipe import Recipe, hub_parts, model_name

SHA = "1234567890abcdef1234567890abcdef12345678"
ALLOW = "If it is a model of the Hugging Face hub, allow its download (--hub, or the box on the page)."
OFFLINE = "Check the network, or download the model elsewhere and give its folder."


class Hub(ThreadingHTTPServer):
    """A hub with the models of one folder, `lab/NAME` each at one revision; it remembers what was asked."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    """The few calls that a snapshot download makes."""

    server: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        found = re.fullmatch(r"(?:/api/models)?/lab/(\w+)/(revision|tree|resolve)/([^/]+)/?(.*)", path)
        folder = self.server.folder / (found[1] if found else "none")
        if not found or not folder.is_dir():
            return self._send(404, b"{}", body, **{"X-Error-Code": "RepoNotFound"})
        if found[3] not in ("main", SHA):
            return self._send(404, b"{}", body, **{"X-Error-Code": "RevisionNotFound"})
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if found[2] == "revision":
            siblings = [{"rfilename": str(p.relative_to(folder))} for p in files]
            return self._send(
                200, json.dumps({"id": f"lab/{found[1]}", "sha": SHA, "siblings": siblings}).encode(), body
            )
        if found[2] == "tree":
            rows = [
                {"type": "file", "path": str(p.relative_to(folder)), "size": p.stat().st_size, "oid": _oid(p)}
                for p in files
            ]
            return self._send(200, json.dumps(rows).encode(), body)
        file = folder / found[4]
        return self._send(200, file.read_bytes(), body, ETag=f'"{_oid(file)}"', **{"X-Repo-Commit": SHA})

    def _send(self, code: int, data: bytes, body: bool, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub library, and no hub to be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub, "_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that holds lab/base, lab/colours and lab/numbers."""
    server = Hub(make_models(tmp_path / "zoo"))
    (tmp_path / "zoo" / "base" / "pytorch_model.bin").write_bytes(b"never fetched")
    (tmp_path / "zoo" / "base" / "onnx").mkdir()
    (tmp_path / "zoo" / "base" / "onnx" / "config.json").write_text("{}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


HUB_RECIPE: dict[str, Any] = {
    "base": "lab/base",
    "tasks": {"colours": {"checkpoint": f"lab/colours@{SHA}"}, "numbers": {"checkpoint": "lab/numbers@main"}},
    "method": "task_arithmetic",
}


def refused(*names: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        hub.download(names)
    return str(caught.value)


def test_a_recipe_of_hub_names_downloads_once_and_only_on_request(
    fake: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path / "recipe.yaml", Recipe.from_dict(HUB_RECIPE))
    assert main(["merge", str(path), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.count(ALLOW) == 3 and fake.asked == []
    assert f"{tmp_path}/lab/base: must be a folder or a file that exists; got nothing there. " in message
    assert main(["merge", str(path), str(tmp_path / "out"), "--hub"]) == 0
    fetched = [a for a in fake.asked if "/resolve/" in a]
    assert fetched and not [a for a in fetched if a.endswith((".bin", "/onnx/config.json"))]
    assert main(["merge", str(write_recipe(path, recipe_of(tmp_path / "zoo"))), str(tmp_path / "local")]) == 0
    first, second = (open_checkpoint(tmp_path / n) for n in ("out", "local"))
    assert list(first) == list(second) and all(first.read(n).equal(second.read(n)) for n in first)
    fake.asked.clear()
    write_recipe(path, Recipe.from_dict(HUB_RECIPE))
    assert main(["merge", str(path), str(tmp_path / "again"), "--hub"]) == 0
    assert fake.asked == [], "what the cache holds costs no network"
    assert "base: lab/base" in (tmp_path / "again" / "explorer_recipe.yaml").read_text()
    card = (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert f"- base: `lab/base` (revision `{SHA}`, content digest `" in card
    assert f"- colours: `lab/colours` (revision `{SHA}`" in card


def test_a_cached_model_opens_without_network_and_says_its_revision(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hub.download(["lab/base", "lab/base", "not a hub name"])
    assert [(m.name, m.revision) for m in found] == [("lab/base", SHA)]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        for name in ("lab/base", "lab/base@main", f"lab/base@{SHA}"):
            checkpoint = hub.open_model(name)
            assert (checkpoint.name, checkpoint.format) == ("base", f"safetensors, hub revision {SHA[:12]}")
            assert checkpoint.config and hub.download([name])[0].folder == checkpoint.path


def test_progress_in_bytes_and_a_stop(fake: Hub) -> None:
    steps: list[Progress] = []
    hub.download(["lab/base"], progress=steps.append)
    assert steps and steps[-1].label == "downloading lab/base, bytes"
    assert steps[-1].done == steps[-1].total >= (fake.folder / "base" / "model.safetensors").stat().st_size
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        hub.download(["lab/colours"], cancel=token)
    assert hub.find_cached("lab/base") is not None


def test_no_network_gives_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("lab/base") == f"hub model lab/base: must be downloaded; got no answer from 127.0.0.1:9. {OFFLINE}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused("lab/base@v1") == (
        "hub model lab/base@v1: must be in the local cache while HF_HUB_OFFLINE is set; got nothing there. "
        "Unset HF_HUB_OFFLINE, or download the model elsewhere and give its folder."
    )


def test_names_and_revisions_that_the_hub_does_not_have(fake: Hub) -> None:
    assert refused("lab/none") == (
        "hub model lab/none: must be a model of the hub; got no such model, or a private one. "
        "Check its name on the hub."
    )
    assert refused("lab/base@other") == (
        "hub model lab/base@other: must be a revision of the model; got no such revision. Check its name on the hub."
    )


def test_a_model_without_safetensors_is_not_fetched(fake: Hub) -> None:
    folder = fake.folder / "base"
    (folder / "model.safetensors").unlink()
    assert refused("lab/base") == (
        "hub model lab/base: must hold whole safetensors weights; got none. "
        "Other files are not fetched; download it yourself and give its folder."
    )
    assert not [a for a in fake.asked if a.endswith(".bin")]


@pytest.mark.parametrize("lacking", ["the only file", "a shard"])
def test_a_cache_without_all_weights_is_filled(fake: Hub, lacking: str) -> None:
    found = hub.download(["lab/base"])[0]
    if lacking == "a shard":
        index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
        (found.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (found.folder / "model.safetensors").unlink()
    assert hub.find_cached("lab/base") is None
    if lacking == "the only file":
        fake.asked.clear()
        assert hub.download(["lab/base"]) == (found,) and fake.asked
    else:
        assert "must hold whole safetensors weights" in refused("lab/base")


def test_any_other_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, local_files_only: bool = False, **__: Any) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("nothing")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    assert refused("lab/base") == (
        f"hub model lab/base: must be downloaded; got [Errno 28] No space left on device. {OFFLINE}"
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lab/base", ("lab/base", None)),
        ("lab/base@main", ("lab/base", "main")),
        ("lab-1/b.a_se@refs/pr/1", ("lab-1/b.a_se", "refs/pr/1")),
        ("base", None),
        ("/lab/base", None),
        ("./base", None),
        ("../base", None),
        ("lab/../base", None),
        ("lab/base@../../x", None),
        ("lab/base/deep", None),
        ("lab/model.safetensors", None),
        ("lab/model.bin", None),
        ("lab/base@", None),
        ("la b/base", None),
        ("https://huggingface.co/lab/base", None),
    ],
)
def test_what_is_a_hub_name(text: str, parts: tuple[str, str | None] | None) -> None:
    assert hub_parts(text) == parts


def test_a_local_folder_of_that_name_is_a_path(tmp_path: Path) -> None:
    shutil.copytree(make_models(tmp_path / "zoo") / "base", tmp_path / "lab" / "base")
    assert hub_parts("lab/base") is None
    assert hub.open_model("lab/base").format == "safetensors" and hub.download(["lab/base"]) == ()


def test_names_of_models() -> None:
    assert model_name("lab/base@main") == "base" and model_name("a/b/spam.ckpt") == "spam"
    assert named_tasks(["lab/base@refs/pr/1", "x=lab/other"]) == {"base": "lab/base@refs/pr/1", "x": "lab/other"}


def test_the_page_needs_the_option_and_the_box(fake: Hub, tmp_path: Path) -> None:
    recipe = Recipe.from_dict(HUB_RECIPE)
    closed = make_bench(tmp_path / "zoo", tmp_path / "exports")
    with pytest.raises(InputError, match="start the app with --hub"):
        closed.models(recipe)
    with pytest.raises(InputError) as caught:
        closed.download(recipe, CancelToken())
    assert str(caught.value) == (
        "hub: downloads must be allowed; got an app started without --hub. Start it with --hub."
    )
    bench = make_bench(tmp_path / "zoo", tmp_path / "exports", hub=True)
    with pytest.raises(InputError, match="allow its download"):
        bench.models(recipe)
    assert fake.asked == []
    bench.download(recipe, CancelToken())
    assert bench.models(recipe).base.format.startswith("safetensors, hub revision")
    with pytest.raises(InputError, match="start the app with --hub"):
        closed.models(recipe)
    assert len(open_models(recipe).tasks) == 2


def test_only_the_models_own_cache_folder_is_allowed(fake: Hub, tmp_path: Path) -> None:
    found = hub.download(["lab/base"])[0]
    outside = tmp_path / "outside.safetensors"
    shutil.copyfile(tmp_path / "zoo" / "base" / "model.safetensors", outside)
    (found.folder / "model.safetensors").unlink()
    (found.folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(PathError, match="must lie inside an allowed folder"):
        hub.open_model("lab/base", allowed=[tmp_path / "zoo"])
