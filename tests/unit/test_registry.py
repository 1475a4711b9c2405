"""Discovery, collisions and near names."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from explorer.errors import UnknownNameError
from explorer.registry import Registry


@dataclass(frozen=True)
class Thing:
    name: str


def test_collision_is_refused() -> None:
    registry: Registry[Thing] = Registry("thing")
    registry.add(Thing("a"))
    with pytest.raises(TypeError, match="registered twice"):
        registry.add(Thing("a"))


def test_unknown_name_offers_near_ones() -> None:
    registry: Registry[Thing] = Registry("merge method")
    registry.add(Thing("ties"))
    with pytest.raises(UnknownNameError) as error:
        registry.get("tise")
    assert str(error.value) == "merge method: must be a known name; got 'tise'. Did you mean 'ties'?"


def test_files_of_a_package_are_discovered(tmp_path, monkeypatch) -> None:
    package = tmp_path / "things_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_api.py").write_text("raise RuntimeError('private files are not plugins')")
    (package / "one.py").write_text("from tests_registry_hook import registry, Thing\nregistry.add(Thing('one'))\n")
    hook = type(sys)("tests_registry_hook")
    registry: Registry[Thing] = Registry("thing")
    hook.registry, hook.Thing = registry, Thing
    monkeypatch.setitem(sys.modules, "tests_registry_hook", hook)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.extend("things_for_test")
    assert registry.names() == ("one",) and "one" in registry and len(registry) == 1


def test_two_threads_that_ask_first_both_see_every_plugin(tmp_path, monkeypatch) -> None:
    package = tmp_path / "slow_things_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    text = "import time\ntime.sleep(0.2)\nfrom tests_slow_hook import registry, Thing\nregistry.add(Thing('slow'))\n"
    (package / "slow.py").write_text(text)
    hook = type(sys)("tests_slow_hook")
    registry: Registry[Thing] = Registry("thing", "slow_things_for_test")
    hook.registry, hook.Thing = registry, Thing
    monkeypatch.setitem(sys.modules, "tests_slow_hook", hook)
    monkeypatch.syspath_prepend(str(tmp_path))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: registry.names(), range(2)))
    assert found == [("slow",), ("slow",)]


def test_a_broken_plugin_is_reported_every_time(tmp_path, monkeypatch) -> None:
    package = tmp_path / "broken_things_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("raise RuntimeError('broken')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry: Registry[Thing] = Registry("thing", "broken_things_for_test")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            registry.names()
