"""Picking a device, and saying why one cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from explorer.compute import device
from explorer.errors import InputError


def test_processor() -> None:
    found = device.pick_device("cpu")
    threads = torch.get_num_threads()
    assert found.title == f"CPU, {threads} thread{'s' if threads != 1 else ''}"
    assert found.torch == torch.device("cpu")
    assert 0 < found.free_bytes <= found.total_bytes


def test_automatic_choice_without_a_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick_device().name == "cpu"
    assert device.pick_device("auto").name == "cpu"


def test_automatic_choice_with_a_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10, 20))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200")
    assert device.pick_device() == device.Device("cuda:0", "NVIDIA H200", 10, 20)
    with pytest.raises(InputError, match=r"got 'cuda:1'. There is one graphics card, cuda:0; use 'cpu'"):
        device.pick_device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "mps"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(InputError, match=rf"device: must be auto, cpu, cuda or cuda:N; got '{name}'. Use 'cpu'."):
        device.pick_device(name)


def test_a_card_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"must be available here; got 'cuda'. There are 0 graphics cards"):
        device.pick_device("cuda")


def test_memory_stays_within_the_control_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000", encoding="ascii")
    (tmp_path / "memory.current").write_text("400000", encoding="ascii")
    found = device.pick_device("cpu")
    assert (found.free_bytes, found.total_bytes) == (600_000, 1_000_000)
    (tmp_path / "memory.max").write_text("max", encoding="ascii")
    assert device.pick_device("cpu").total_bytes > 1_000_000
