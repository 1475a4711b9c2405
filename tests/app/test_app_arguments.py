"""How the app starts: what it refuses, which hosts it answers, which files it never serves."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlparse

import pytest

import app
from explorer.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def refused(*arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        app.check(app.parse(list(arguments)))
    return str(caught.value)


def test_the_defaults_are_sound() -> None:
    arguments = app.parse([])
    app.check(arguments)
    assert arguments.host in app.LOCAL or arguments.auth is None


def test_other_hosts_need_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    for host in ("0.0.0.0", "::", "192.168.0.2", "example.org"):
        message = refused("--host", host)
        assert message == (
            f"--host: other hosts may connect only with a password; got {host}. "
            "Add --auth NAME:PASSWORD, or listen on 127.0.0.1."
        )
        app.check(app.parse(["--host", host, "--auth", "me:secret:with:colons"]))
    for auth in ("me", "me:", ":secret", ":"):
        assert "--auth: must be NAME:PASSWORD" in refused("--auth", auth)


def test_every_problem_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    message = refused(
        "--models", str(tmp_path / "no"), "--tasks", str(tmp_path / "file"), "--exports", str(tmp_path / "file"),
        "--port", "99999", "--budget", "0", "--max-upload", "lots",
    )  # fmt: skip
    assert message.startswith("app: 6 problems")
    assert f"--models: must be a folder that exists; got {tmp_path / 'no'}. Check the path." in message
    for option in ("--tasks", "--exports", "--port", "--budget", "--max-upload"):
        assert f"{option}: must be" in message
    assert "--budget: must be above 0 GiB; got nan" in refused("--budget", "nan")


def test_wrong_arguments_exit_with_2_and_no_traceback() -> None:
    command = [sys.executable, "app.py", "--models", "/no/such/folder"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: --models: must be a folder that exists; got /no/such/folder. Check the path.\n"


def test_nothing_is_reported_to_anybody() -> None:
    """Gradio reads these when it is imported, so they are set before."""
    code = (
        "import os, sys; os.environ.pop('GRADIO_ANALYTICS_ENABLED', None); import app; "
        "assert 'gradio' not in sys.modules; "
        "print(*(os.environ[n] for n in "
        "('GRADIO_ANALYTICS_ENABLED', 'HF_HUB_OFFLINE', 'HF_HUB_DISABLE_TELEMETRY')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "1", "1"], done.stderr


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running app with a small upload limit."""
    exports = tmp_path_factory.mktemp("exports")
    arguments = ["--port", "7990", "--max-upload", "1mb", "--exports", str(exports), "--device", "cpu", "--no-cache"]
    page = app.launch(app.parse(arguments), block=False)
    yield urlparse(page.local_url).netloc  # type: ignore[attr-defined]
    page.close()  # type: ignore[attr-defined]


def ask(
    address: str, path: str, *, method: str = "GET", host: str | None = None, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        connection.request(method, path, body=body or None, headers={"Host": host or address, **given})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def upload(address: str, size: int) -> tuple[int, bytes]:
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.safetensors"\r\n\r\n'
    body = head.encode() + b"x" * size + f"\r\n--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    return ask(address, "/gradio_api/upload", method="POST", body=body, Content_Type=kind)


def test_the_page_is_served_here_and_to_no_other_name(address: str) -> None:
    status, body = ask(address, "/")
    assert status == 200 and b"Task Interference Explorer" in body
    port = address.rsplit(":", 1)[1]
    assert ask(address, "/", host=f"localhost:{port}")[0] == 200
    for foreign in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "169.254.169.254"):
        assert ask(address, "/", host=foreign)[0] == 400
        assert ask(address, "/config", host=foreign)[0] == 400


def test_an_upload_over_the_limit_is_refused(address: str) -> None:
    assert upload(address, 1000)[0] == 200
    assert upload(address, 3 << 20)[0] == 413


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(ROOT / "app.py"), "app.py", "../etc/passwd", "pyproject.toml", "/proc/self/environ"]
)
def test_no_other_file_is_served(address: str, path: str) -> None:
    for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
        status, body = ask(address, route + quote(path))
        assert status in (403, 404), (route, path, status)
        assert b"root:" not in body and b"def launch" not in body


def test_no_callback_is_offered_as_an_interface(address: str) -> None:
    status, body = ask(address, "/gradio_api/info")
    assert status == 200 and json.loads(body)["named_endpoints"] == {}


def test_the_next_free_port_is_taken_when_one_is_busy(address: str) -> None:
    host, port = address.split(":")
    assert app._free_port(host, int(port)) > int(port)
    with pytest.raises(InputError, match="a free port must be found; got none from 70000 on"):
        app._free_port(host, 70000)
