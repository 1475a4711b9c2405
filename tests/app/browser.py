"""Finds the browser that the page tests drive, or installs one, and says which.

    python tests/app/browser.py --install

Order: $BROWSER_PATH, a Chromium or Chrome on the PATH, Playwright's own; with --install then Debian's package
(where apt-get may be used), then Playwright's download. The tests never skip silently: without a browser they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def playwright_browser() -> str | None:
    """The browser that Playwright downloaded earlier, if it is there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        path = driver.chromium.executable_path
    return path if Path(path).exists() else None


def find() -> str | None:
    """Path of a usable browser, or None."""
    given = os.environ.get("BROWSER_PATH")
    if given:
        return given if Path(given).exists() else None
    return next((path for name in NAMES if (path := shutil.which(name))), None) or playwright_browser()


def _debian() -> bool:
    if not shutil.which("apt-get"):
        return False
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"] if shutil.which("sudo") else None
    if prefix is None:
        return False
    install = [*prefix, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core"]
    return all(subprocess.run(c, check=False).returncode == 0 for c in ([*prefix, "apt-get", "update", "-qq"], install))


def _playwright() -> bool:
    command = [sys.executable, "-m", "playwright", "install", "--with-deps", "chromium"]
    return subprocess.run(command, check=False).returncode == 0


def main() -> int:
    """Find, else install; print which browser the tests will use."""
    for name, install in (("Debian's package chromium", _debian), ("Playwright's own download", _playwright)):
        if path := find():
            break
        if "--install" in sys.argv:
            print(f"browser tests: installing {name}", flush=True)
            install()
    path = find()
    if path is None:
        print("browser tests: no browser found. Install chromium, or set BROWSER_PATH.", file=sys.stderr)
        return 2
    print(f"browser tests: using {path}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
