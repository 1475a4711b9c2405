"""Discovery, collisions and near names."""

import sys
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
