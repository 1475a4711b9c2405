"""Two threads that need transformers first at the same time: the warm-up and the first visitor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import threading
from pathlib import Path
from explorer.evaluation._tokenizer import load_tokenizer
from explorer.evaluation.models import build_module

base, start, failed = Path("sample_checkpoints/base"), threading.Barrier(2), []

def run(make):
    start.wait()
    try:
        make(base)
    except BaseException as error:
        failed.append(repr(error))

threads = [threading.Thread(target=run, args=(make,)) for make in (build_module, load_tokenizer)]
for step in (threading.Thread.start, threading.Thread.join):
    for thread in threads:
        step(thread)
print(failed)
"""


@pytest.mark.slow
def test_a_module_and_a_tokenizer_can_be_made_at_once() -> None:
    # A process of its own: only the first import of transformers can go wrong.
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
