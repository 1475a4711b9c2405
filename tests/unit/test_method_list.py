"""The method list offers what fits the open models, and says what does not."""

from dataclasses import dataclass

from explorer.merging import METHODS
from viz.panels.methods import choices, fits, group_of, left_out


@dataclass
class Fake:
    name: str
    title: str
    granularity: str = "elementwise"
    output: str = "single"
    min_tasks: int = 1
    max_tasks: int | None = None
    needs_data: tuple[str, ...] = ()


def test_groups_come_in_order_and_the_common_first() -> None:
    methods = [
        Fake("z", "Zed", "matrix"),
        Fake("p", "Per", output="per_task"),
        Fake("b", "Bee"),
        Fake("ties", "TIES"),
        Fake("task_arithmetic", "TA"),
    ]
    assert [name for _, name in choices(methods, 3)] == ["task_arithmetic", "ties", "b", "z", "p"]


def test_methods_that_do_not_fit_are_named_with_their_reason() -> None:
    methods = [Fake("slerp", "SLERP", min_tasks=2, max_tasks=2), Fake("near", "Near", max_tasks=1), Fake("a", "A")]
    assert [name for _, name in choices(methods, 7)] == ["a"]
    assert left_out(methods, 7) == "Not offered for 7 fine-tunes: Near (takes 1), SLERP (takes 2)."
    assert left_out(methods, 1) == "Not offered for 1 fine-tune: SLERP (takes 2)." and left_out(methods[2:], 7) == ""


def test_the_chosen_method_stays_in_the_list() -> None:
    assert ("SLERP  ·  whole tensors", "slerp") in choices([Fake("slerp", "SLERP", "tensor", max_tasks=2)], 7, "slerp")


def test_methods_that_need_statistics_are_offered_where_there_are_some() -> None:
    methods = [Fake("f", "Fisher", "data", needs_data=("fisher",)), Fake("g", "Gram", "data", needs_data=("gram",))]
    run = "run `python -m explorer gather RECIPE OUT_DIR` and merge by its recipe."
    assert choices(methods, 2) == []
    assert left_out(methods, 2) == f"Fisher and Gram need statistics that these models do not have; {run}"
    assert choices(methods, 2, measured={"fisher"}) == [("Fisher  ·  needs data", "f")]
    assert left_out(methods, 2, measured={"fisher"}) == f"Gram needs statistics that these models do not have; {run}"
    assert choices(methods, 2, "g") == [("Gram  ·  needs data", "g")]
    assert left_out(methods, 2, measured={"fisher", "gram"}) == ""


def test_every_registered_method_has_a_group_and_a_place() -> None:
    for tasks in (1, 2, 7):
        offered = {name for _, name in choices(tuple(METHODS), tasks)}
        assert offered == {m.name for m in METHODS if fits(m, tasks) and not m.needs_data}
        offered = {name for _, name in choices(tuple(METHODS), tasks, measured=("fisher", "gram"))}
        assert offered == {m.name for m in METHODS if fits(m, tasks)}
    assert all(group_of(m) for m in METHODS)
