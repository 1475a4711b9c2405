"""Known values of the metrics on whole matrices, their nulls by simulation, and the pass that feeds them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from explorer.checkpoints.groups import Group, group_of
from explorer.compute import singular
from explorer.compute.source import StateDictSource
from explorer.errors import Cancelled
from explorer.executor import CancelToken, Progress, SerialExecutor, ThreadExecutor
from explorer.interference import METRICS, _matrix_pass, collect, survey, wudi_loss
from explorer.interference._matrices import matrix_shape
from explorer.interference.spectrum import GRID, random_energy
from explorer.results import Result

NAMES = tuple(m.name for m in METRICS if m.on == "matrix")
WEIGHT = "encoder.layer.0.output.dense.weight"


def gaussian(rows: int, columns: int, seed: int, rank: int | None = None) -> Tensor:
    draw = np.random.default_rng(seed)
    if rank is None:
        return torch.tensor(draw.normal(size=(rows, columns)))
    return torch.tensor(draw.normal(size=(rows, rank)) @ draw.normal(size=(rank, columns)))


def found(name: str, *matrices: Tensor, **parameters: float) -> pd.DataFrame:
    """The model rows of a metric for one matrix of every task."""
    return result_of(name, *matrices, **parameters).at("model")


def result_of(name: str, *matrices: Tensor, **parameters: float) -> Result:
    base = {WEIGHT: torch.zeros_like(matrices[0])}
    source = StateDictSource(base, {f"t{i}": {WEIGHT: m} for i, m in enumerate(matrices)})
    return survey(source, [name], parameters={name: parameters})[name]


def orthogonal_tasks() -> tuple[Tensor, Tensor]:
    """Two tasks that share neither inputs nor outputs."""
    one, other = torch.zeros(2, 8, 10, dtype=torch.float64)
    one[:4, :5], other[4:, 5:] = gaussian(4, 5, 0), gaussian(4, 5, 1)
    return one, other


def test_orthogonal_tasks_do_not_interfere() -> None:
    one, other = orthogonal_tasks()
    assert found("sti", one, other).sti[0] == pytest.approx(0, abs=1e-12)
    assert found("subspace_overlap", one, other).overlap[0] == pytest.approx(0, abs=1e-12)
    assert found("row_space_interference", one, other).interference[0] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found("wudi_loss", one, other).disturbance, 0, atol=1e-12)
    np.testing.assert_allclose(found("sar", one, other, residual=0.001).alignment, 1, atol=1e-5)


def test_identical_tasks() -> None:
    one = gaussian(8, 10, 0)
    kept = np.linalg.svd(one.numpy(), compute_uv=False)[:4]
    row = found("sti", one, one).iloc[0]
    assert row.raw == pytest.approx(2 * kept.sum()) and row.sti == pytest.approx(1) and row["rank"] == 4
    assert found("sti", one, one, one, rank=2).sti[0] == pytest.approx(4)
    row = found("subspace_overlap", one, one).iloc[0]
    assert row.overlap == pytest.approx(1) and row.null == pytest.approx((4 / 8 + 4 / 10) / 2)
    alike = (kept**4).sum() ** 0.5 / (kept**2).sum()
    assert found("row_space_interference", one, one).interference[0] == pytest.approx(alike)
    single = gaussian(8, 10, 0, rank=1)
    assert found("row_space_interference", single, single).interference[0] == pytest.approx(1)
    np.testing.assert_allclose(found("wudi_loss", one, one).disturbance, 1)
    np.testing.assert_allclose(found("wudi_loss", one, one, scale=0.5).disturbance, 0, atol=1e-12)
    np.testing.assert_allclose(found("wudi_loss", one, one, scale=0).disturbance, 1)


def test_one_task_and_a_task_that_changed_nothing() -> None:
    one, none = gaussian(8, 10, 0), torch.zeros(8, 10, dtype=torch.float64)
    assert found("sti", one).sti[0] == 0 and found("wudi_loss", one).disturbance[0] == 0
    alone = found("sar", one).iloc[0]
    assert alone.alignment >= np.sqrt(1 - 0.05**2) and alone.alignment == pytest.approx(alone.null)
    assert found("sti", one, none).sti[0] == 0 and np.isnan(found("sti", none, none).sti[0])
    assert np.isnan(found("subspace_overlap", one, none).overlap[0])
    assert np.isnan(found("row_space_interference", one, none).interference[0])
    for name, column in (("wudi_loss", "disturbance"), ("sar", "alignment")):
        values = found(name, one, none)[column]
        assert np.isfinite(values[0]) and np.isnan(values[1])
    assert found("spectrum", one, none).energy.isna().sum() == len(GRID)
    np.testing.assert_allclose(found("sar", one, -one).alignment, 0)


def test_the_null_of_singular_task_interference_is_that_of_random_directions() -> None:
    row = found("sti", *(gaussian(60, 80, i) for i in range(3))).iloc[0]
    assert row.sti == pytest.approx(row.null, rel=0.06)
    many = [found("sti", *(gaussian(60, 80, 3 * s + i) for i in range(3))).iloc[0] for s in range(1, 6)]
    assert np.mean([r.sti for r in many]) == pytest.approx(np.mean([r.null for r in many]), rel=0.03)


def test_the_null_of_subspace_overlap_and_its_spread() -> None:
    values = [found("subspace_overlap", gaussian(9, 12, s), gaussian(9, 12, 1000 + s)).iloc[0] for s in range(150)]
    null, spread = values[0].null, values[0].null_sd
    assert null == pytest.approx((4 / 9 + 4 / 12) / 2)
    seen = np.array([v.overlap for v in values])
    assert abs(seen.mean() - null) < 4 * spread / np.sqrt(len(seen))
    assert seen.std() == pytest.approx(spread, rel=0.15)


def test_the_nulls_of_row_space_interference_and_wudi_are_means_of_squares() -> None:
    pairs = [(gaussian(7, 12, s), gaussian(7, 12, 1000 + s)) for s in range(150)]
    rows = [found("row_space_interference", *p).iloc[0] for p in pairs]
    squares = np.array([r.interference for r in rows]) ** 2
    assert rows[0].null == pytest.approx(np.sqrt(1 / 12))
    assert squares.mean() == pytest.approx(1 / 12, abs=4 * squares.std() / np.sqrt(len(squares)))
    losses = [found("wudi_loss", *p, scale=0.7).iloc[0] for p in pairs]
    apart = np.array([v.disturbance / v.null for v in losses])
    assert apart.mean() == pytest.approx(1, abs=4 * apart.std() / np.sqrt(len(apart)))


def test_the_null_of_subspace_alignment_is_what_unrelated_tasks_show() -> None:
    rows = found("sar", *(gaussian(40, 50, i, rank=6) for i in range(4)), rank=10)
    np.testing.assert_allclose(rows.alignment, rows.null, atol=0.08)
    assert (rows.null > np.sqrt(10 / 40)).all()
    like = gaussian(40, 50, 9, rank=6)
    shared = found("sar", like, like, like, like, rank=5)
    assert (shared.alignment > shared.null + 0.1).all()
    row = torch.zeros(20, 30, dtype=torch.float64)
    row[3] = 1  # all write the same output: signs alone would not take that apart
    alone = found("sar", row, row, row, row, rank=1)
    assert (alone.alignment > 0.999).all() and (alone.null < 0.99).any()


def test_the_spectrum_of_noise_is_its_null() -> None:
    for rows, columns in ((200, 200), (100, 400), (400, 100)):
        result = found("spectrum", gaussian(rows, columns, 5))
        np.testing.assert_allclose(result.energy, result.null, atol=0.012)
        np.testing.assert_allclose(result.null, random_energy(rows, columns), rtol=1e-12)
    low = found("spectrum", gaussian(50, 60, 1, rank=5)).iloc[-1]
    assert low.effective_rank <= 5 and low.rank_90 <= 5 and low.full_rank == 50


def test_a_sketched_survey_stays_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.arange(1, 151).double() ** -1.5
    tasks = [
        torch.linalg.qr(gaussian(150, 150, s))[0] * values @ torch.linalg.qr(gaussian(200, 150, 90 + s))[0].T
        for s in range(3)
    ]
    ranked = {name: {} if name in ("spectrum", "wudi_loss") else {"rank": 8} for name in NAMES}
    exact = {name: found(name, *tasks, **ranked[name]) for name in NAMES}
    monkeypatch.setattr(singular, "EXACT_SIDE", 100)
    monkeypatch.setattr(_matrix_pass, "EXACT_SIDE", 100)
    monkeypatch.setattr(wudi_loss, "EXACT_SIDE", 100)
    monkeypatch.setattr(singular, "SKETCH", 40)
    for name in NAMES:
        result = result_of(name, *tasks, **ranked[name])
        assert result.provenance["matrices_sketched"] == 1 and "directions" in result.provenance["sketch"]
        rows = result.at("model")
        assert (rows.n_sketched == 1).all() and (exact[name].n_sketched == 0).all()
        shown = {"sti": "sti", "sar": "alignment", "spectrum": "energy", "subspace_overlap": "overlap",
                 "row_space_interference": "interference", "wudi_loss": "disturbance"}[name]  # fmt: skip
        if name == "spectrum":
            known = rows.rank_fraction <= 40 / 150
            assert rows.energy[~known].isna().all() and rows.effective_rank.isna().all()
            missing = exact[name].energy[known] - rows.energy[known]
            assert (missing > -1e-12).all() and (missing < 1e-4).all()
        else:
            np.testing.assert_allclose(rows[shown], exact[name][shown], rtol=1e-4)


@pytest.mark.parametrize("shape", [(130, 160), (160, 130)])
def test_an_estimated_wudi_loss_is_right_on_average_and_within_its_error(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    tasks = [gaussian(*shape, s) + 3 * gaussian(*shape, 50, rank=2) for s in range(3)]
    exact = found("wudi_loss", *tasks, scale=0.8)
    for module in (singular, wudi_loss):
        monkeypatch.setattr(module, "EXACT_SIDE", 100)
    monkeypatch.setattr(singular, "SKETCH", 10)
    sketched = found("wudi_loss", *tasks, scale=0.8)
    assert (sketched.loss != exact.loss).all()
    np.testing.assert_allclose(sketched.loss, exact.loss, rtol=0.05)
    np.testing.assert_allclose(sketched.disturbance, exact.disturbance, rtol=0.05)
    assert (sketched.n_sketched == 1).all() and sketched.null.tolist() != exact.null.tolist()


def test_what_counts_as_a_matrix() -> None:
    plain = Group("layer 0", 0, "mlp in")
    table, head = group_of("model.embed_tokens.weight"), group_of("lm_head.weight")
    assert matrix_shape((3, 4), plain) == (3, 4) and matrix_shape((8, 3, 2, 2), plain) == (8, 12)
    for shape in ((), (5,), (0, 4), (4, 0), (1, 9), (9, 1)):
        assert matrix_shape(shape, plain) == "no matrix"
    assert matrix_shape((4096, 8), table) == (4096, 8)
    for group in (table, head):
        assert matrix_shape((4097, 8), group) == "table of more than 4096 rows"


def several(count: int = 3) -> StateDictSource:
    shapes = {"embed.weight": (5000, 4), "layers.0.b": (7,), "layers.0.q": (20, 30), "layers.1.q": (30, 20)}
    base = {n: torch.zeros(s) for n, s in shapes.items()}
    tasks = {f"t{t}": {n: torch.randn(s, generator=torch.Generator().manual_seed(t)) for n, s in shapes.items()}
             for t in range(count)}  # fmt: skip
    return StateDictSource(base, tasks)


def test_matrix_metrics_are_left_out_unless_named() -> None:
    assert not set(NAMES) & set(collect(several()).planned)
    both = collect(several(), ["sti", "cosine"])
    assert list(both.planned) == ["cosine", "sti"] and len(both.nothing) == 2
    assert both.finish("cosine").at("model").null.tolist() == [0, 0, 0]
    assert set(collect(several(), ["all"]).planned) == set(METRICS.names())
    assert both.provenance["matrices_left_out"] == {"table of more than 4096 rows": 1, "no matrix": 1}


def test_every_matrix_is_decomposed_once_for_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = singular.decompose
    monkeypatch.setattr("explorer.interference._matrices.decompose", lambda m, s: (seen.append(m.shape), real(m, s))[1])
    survey(several(), NAMES)
    assert len([s for s in seen if 0 not in s]) == 2 * (3 + 1)  # three tasks and their sum
    seen.clear()
    survey(several(), ["wudi_loss"])
    assert not seen


def test_progress_counts_matrices_and_a_cancelled_pass_stops() -> None:
    seen: list[Progress] = []
    survey(several(), ["sti"], progress=seen.append)
    assert [(p.done, p.total, p.label) for p in seen] == [(1, 2, "matrices"), (2, 2, "matrices")]
    token = CancelToken()
    with pytest.raises(Cancelled):
        survey(several(), ["sti"], progress=lambda p: token.cancel(), cancel=token, executor=SerialExecutor())


def test_large_matrices_one_at_a_time_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = survey(several(), NAMES, executor=ThreadExecutor(3))
    monkeypatch.setattr(_matrix_pass, "LARGE", 1)
    alone = survey(several(), NAMES, executor=ThreadExecutor(3))
    for name in NAMES:
        pd.testing.assert_frame_equal(usual[name].table, alone[name].table, check_exact=True)


def test_the_scale_of_the_merge_needs_no_weights() -> None:
    source = several()
    kept = collect(source, ["wudi_loss"])
    source.base = source.task = None  # type: ignore[assignment,method-assign]
    assert (kept.finish("wudi_loss", scale=0.3).at("model").disturbance < 1).all()
    assert kept.finish("wudi_loss", scale=0).at("model").disturbance.tolist() == pytest.approx([1, 1, 1])
