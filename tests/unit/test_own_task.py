"""Guesses, labels, and task folders made of people's own tables; the command `task`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from evaluation_zoo import CLASSES, write_checkpoint, write_task
from evaluation_zoo import weights as zoo_weights

from explorer.cli import main
from explorer.data import MADE, DataFile, Plan, guess_kinds, make_task, match_labels, open_data
from explorer.data.guessing import architecture_fit
from explorer.errors import DataError, OutputError
from explorer.evaluation import KINDS, Field, TaskKind, load_task, task_kind
from explorer.registry import Registry

COLUMNS = {"text": ("sentence",), "label": ("colour",)}


def a_csv(folder: Path, rows: list[tuple[str, str]], header: str = "id,sentence,colour") -> Path:
    path = folder / "own.csv"
    lines = [header, *(f'{i},"{text}",{label}' for i, (text, label) in enumerate(rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A task folder with a frozen head for three colours."""
    return write_task(tmp_path / "earlier", weight=torch.eye(3, 16))


def plan_with(earlier: Path, **changes: object) -> Plan:
    given = {"name": "own", "kind": "text_classification", "mapping": COLUMNS, "head_labels": CLASSES}
    return Plan(**{**given, "head_file": next(earlier.glob("*.safetensors")), **changes})  # type: ignore[arg-type]


# ---------------------------------------------------------------- labels


def test_labels_match_by_name_whatever_the_case_and_the_spaces() -> None:
    found = match_labels({" RED": 2, "Green_": 1, "purple": 4}, ("red", "green", "blue"))
    assert found.how == "name" and found.places == {" RED": 0, "Green_": 1}
    assert (found.lacking, found.unused) == (("purple",), ("blue",))
    assert "The head lacks 'purple': 4 rows that carry them count as bad." in found.sentences
    assert "The head also knows 'blue', which no row carries." in found.sentences


def test_labels_match_by_number_where_no_name_fits() -> None:
    found = match_labels({"0": 5, "2": 5, "7": 1}, ("red", "green", "blue"))
    assert (found.how, found.place(2.0), found.place("2"), found.lacking) == ("number", 2, 2, ("7",))
    # Names win where the head's labels are numbers themselves, in another order.
    assert match_labels({"1": 1, "5": 1}, ("5", "1")).places == {"1": 1, "5": 0}
    assert match_labels({"1": 1, "0": 1}, ("5", "1"), how="number").places == {"0": 0, "1": 1}


def test_numbers_with_names_in_the_file_are_matched_by_those_names() -> None:
    found = match_labels({"0": 3, "1": 3}, ("spam", "ham"), names=("ham", "spam"))
    assert found.how == "name" and found.places == {"0": 1, "1": 0}


def test_labels_that_fit_nothing_say_both_lists() -> None:
    with pytest.raises(DataError, match="'red', 'green'; got 'purple'"):
        match_labels({"purple": 1}, ("red", "green"))
    with pytest.raises(DataError, match="does not name its labels: write their numbers, 0 to 1"):
        match_labels({"purple": 1}, ("LABEL_0", "LABEL_1"))


def test_without_a_head_the_file_says_the_labels_and_one_alone_is_none() -> None:
    assert match_labels({"b": 1, "a": 9}).labels == ("a", "b")
    assert match_labels({"2": 1, "0": 9}).labels == ("0", "1", "2")
    with pytest.raises(DataError, match="at least two labels; got only 'a'"):
        match_labels({"a": 9})
    assert any("always says so" in s for s in match_labels({"red": 9}, ("red", "blue")).sentences)


# ---------------------------------------------------------------- guesses


@pytest.fixture
def every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text kind beside made-up ones of every type of field, whatever is registered."""
    known: Registry[TaskKind] = Registry("task kind", "explorer.evaluation.tasks")
    known.add(KINDS.get("text_classification"))
    for module in ("api", "making", "guessing", "earlier"):
        name = f"explorer.data.{module}" if module != "api" else "explorer.evaluation._api"
        monkeypatch.setattr(f"{name}.KINDS", known)
    label = Field("label", "label", "the label", ("label", "class"))
    declared = {
        "own_heads": ("AutoModelForSequenceClassification", [Field("text", "text", "t", ("text",)), label]),
        "pairs": ("AutoModel", [Field("a", "text", "t", ("sentence1",)), Field("b", "text", "t", ("sentence2",)),
                                Field("score", "number", "s", ("score", "similarity"))]),
        "choices": ("AutoModelForCausalLM", [Field("question", "text", "q", ("question",)),
                                             Field("options", "texts", "o", ("choices",)),
                                             Field("answer", "number", "place", ("answer",))]),
        "tags": ("AutoModelForTokenClassification", [Field("words", "tokens", "w", ("tokens",)),
                                                     Field("tags", "labels", "t", ("ner_tags", "labels"))]),
    }  # fmt: skip
    for name, (auto, fields) in declared.items():

        def made(module: object, batch: object, head: object) -> None:
            """A kind of a test."""

        made.__name__ = name
        kind = task_kind(title=name, fields=fields, auto=auto)(made)  # type: ignore[arg-type]
        kind.problem(lambda row: None)


def guessed(path: Path, architecture: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    best = guess_kinds(open_data(path), {"architectures": [architecture]}, has_head=True)[0]
    return best.kind, dict(best.mapping)


@pytest.mark.usefixtures("every_kind")
def test_kind_and_columns_follow_from_names_contents_and_the_model(tmp_path: Path) -> None:
    own = a_csv(tmp_path, [(f"this is number {i}", CLASSES[i % 3]) for i in range(30)], "id,text,class")
    assert guessed(own, "BertForSequenceClassification") == ("own_heads", {"text": ("text",), "label": ("class",)})
    assert guessed(own, "BertModel") == ("text_classification", {"text": ("text",), "label": ("class",)})
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("sentence1\tsentence2\tscore\n" + "".join(f"a b {i}\tc d {i}\t{i / 7}\n" for i in range(20)))
    assert guessed(pairs, "BertModel")[0] == "pairs"
    quiz = tmp_path / "quiz.csv"
    quiz.write_text("question,A,B,C,answer\n" + "".join(f"what is {i},yes {i},no {i},so {i},B\n" for i in range(20)))
    kind, mapping = guessed(quiz, "GPT2LMHeadModel")
    assert (kind, mapping["options"], mapping["question"]) == ("choices", ("A", "B", "C"), ("question",))
    tags = tmp_path / "tags.jsonl"
    tags.write_text("".join(json.dumps({"tokens": ["a", "b"], "ner_tags": ["O", "X"]}) + "\n" for _ in range(9)))
    assert guessed(tags, "BertForTokenClassification") == ("tags", {"words": ("tokens",), "tags": ("ner_tags",)})


@pytest.mark.usefixtures("every_kind")
def test_lists_numbers_and_letters_become_what_a_row_holds(tmp_path: Path) -> None:
    from explorer.data.making import draw_sample, labels_of

    quiz = tmp_path / "quiz.csv"
    quiz.write_text("question,A,B,answer\nq,one,two,B\nq,one,two,0\nq,one,,maybe\n")
    data = open_data(quiz)
    plan = Plan("q", "choices", {"question": ("question",), "options": ("A", "B"), "answer": ("answer",)})
    sample = draw_sample(data, plan, KINDS_OF("choices"), None)
    assert [row["answer"] for _, row in sample.rows] == [1, 0] and sample.rows[0][1]["options"] == ["one", "two"]
    assert sample.bad[0].why == "answer must be a number; got 'maybe'"
    tags = tmp_path / "tags.csv"
    tags.write_text('tokens,ner_tags\na b,O X\n"[""a"", ""b""]",O Y\n')
    data = open_data(tags)
    plan = Plan("t", "tags", {"words": ("tokens",), "tags": ("ner_tags",)}, head_labels=("O", "X"))
    sample = draw_sample(data, plan, KINDS_OF("tags"), labels_of(data, plan))
    assert sample.rows == [(2, {"words": ["a", "b"], "tags": [0, 1]})]
    assert sample.bad[0].why == "ner_tags must be a label that the head has; got 'Y'"


def KINDS_OF(name: str) -> TaskKind:  # noqa: N802 - the registry of the moment
    from explorer.evaluation import _api

    return _api.KINDS.get(name)


def test_an_architecture_speaks_for_its_own_kinds() -> None:
    kind = KINDS.get("text_classification")
    fits = [architecture_fit(kind, {"architectures": [c]}, True) for c in ("BertModel", "GPT2LMHeadModel")]
    assert fits[0] > fits[1] and architecture_fit(kind, {"architectures": ["BertModel"]}, False) == 0.1


# ---------------------------------------------------------------- making


def test_a_table_becomes_a_task_that_says_where_it_is_from(tmp_path: Path, earlier: Path) -> None:
    rows = [("one red", "Red"), ("", "green"), ("two", "purple"), ("=1+1", "BLUE "), ("   ", "red"), ("three", "")]
    data = open_data(a_csv(tmp_path, rows))
    made = make_task(data, tmp_path / "out" / "own", plan_with(earlier))
    assert [dict(r) for r in made.task.rows] == [{"text": "one red", "label": 0}, {"text": "=1+1", "label": 2}]
    assert made.task.labels == CLASSES and made.task.name == "own"
    assert made.sentences[0] == "6 rows read, 4 bad and left out (line 3, 4, 6, 7), all 2 usable ones taken."
    told = json.loads((made.folder / MADE).read_text())
    assert [b["line"] for b in told["bad"]] == [3, 4, 6, 7] and told["n_read"] == 6 and len(told["digest"]) == 32
    assert "must not be empty" in told["bad"][0]["why"] and "got 'purple'" in told["bad"][1]["why"]
    assert load_task(made.folder).digest == made.task.digest
    with pytest.raises(OutputError, match="new or empty folder"):
        make_task(data, made.folder, plan_with(earlier))


def test_the_same_seed_takes_the_same_rows(tmp_path: Path, earlier: Path) -> None:
    data = open_data(a_csv(tmp_path, [(f"text {i}", CLASSES[i % 3]) for i in range(300)]))
    made = [
        make_task(data, tmp_path / str(i), plan_with(earlier, examples=30, seed=s)) for i, s in enumerate((0, 0, 1))
    ]
    digests = [m.task.digest for m in made]
    assert digests[0] == digests[1] != digests[2]
    assert [list(m.task.answers).count(k) for m in made for k in range(3)] == [10] * 9
    assert "a seeded sample of 30 taken" in made[0].sentences[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mapping": {"text": ("sentense",)}}, "Did you mean 'sentence'"),
        ({"mapping": {"text": ("sentence",)}}, "label (the right label) must have a column"),
        ({"mapping": {**COLUMNS, "words": ("id",)}}, "takes only its own fields"),
        ({"examples": 1}, "examples must be a whole number in [2, 1000000]"),
        ({"head_file": None}, "needs a frozen head"),
        ({"parameters": {"max_length": 0}}, "max_length must be"),
        ({"head_labels": ("x", "y", "z")}, "must be labels of the head: 'x', 'y', 'z'"),
        ({"head_labels": ("red", "green")}, "must hold `weight`, floating, [2, hidden]"),
        ({"split": "../up"}, "split must be a plain word"),
    ],
)
def test_a_plan_that_does_not_fit_leaves_nothing_behind(
    tmp_path: Path, earlier: Path, changes: dict[str, object], said: str
) -> None:
    data = open_data(a_csv(tmp_path, [("a", "red"), ("b", "green")]))
    with pytest.raises(DataError) as caught:
        make_task(data, tmp_path / "made" / "own", plan_with(earlier, **changes))
    assert said in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_no_usable_row_names_the_first_and_why(tmp_path: Path, earlier: Path) -> None:
    data: DataFile = open_data(a_csv(tmp_path, [("", "red"), (" ", "green")]))
    with pytest.raises(DataError, match="none of 2; first: line 2: text must not be empty"):
        make_task(data, tmp_path / "own", plan_with(earlier))


# ---------------------------------------------------------------- the command


def test_the_command_shows_makes_and_is_scored(
    tmp_path: Path, earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = a_csv(tmp_path, [("one red", "red"), ("two green", "green"), ("", "blue"), ("three blue", "blue")])
    command = ["task", str(own), str(tmp_path / "tasks" / "mine"), "--like", str(earlier)]
    command += ["--kind", "text_classification"]
    assert main([*command, "--dry-run", "--label-column", "colur"]) == 2
    shown = capsys.readouterr().out
    assert "sentence=one red" in shown and "Did you mean 'colour'?" in shown
    assert not (tmp_path / "tasks").exists()
    assert main([*command, "--label-column", "colour", "--map", "text=sentence", "--examples", "3"]) == 0
    said = capsys.readouterr().out
    assert "line 4: text must not be empty" in said and "4 rows read, 1 bad" in said
    model = write_checkpoint(tmp_path / "model", zoo_weights(1))
    assert main(["evaluate", str(model), "--tasks-folder", str(tmp_path / "tasks"), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["table"]
    assert dict(zip(table["columns"], table["data"][0], strict=True))["n"] == 3
