"""A matrix's rows from its record: what is averaged, what is paired, and what is missing."""

from __future__ import annotations

from statistics import fmean, stdev

import pytest

from kdray.report.matrix_stats import Against, Row, groups
from kdray.report.significance import bootstrap, holm, t_test
from tests.report.matrix_record import record_of

NUMBERS: dict[tuple[str, str], list[float | None]] = {
    ("ce", "a"): [60.0, 61.0, 62.0],
    ("kd", "a"): [63.0, 63.5, 66.0],
    ("crd", "a"): [60.5, 61.0, 61.0],
    ("ce", "b"): [70.0, 71.0, 72.0],
    ("kd", "b"): [71.0, None, 71.5],
}
BASELINE = {"baseline": {"method": "ce"}}


def rows(numbers: dict[tuple[str, str], list[float | None]] = NUMBERS, **matrix: object) -> dict[tuple[str, str], Row]:
    found = [row for group in groups(record_of(numbers, **matrix)) for row in group.rows]
    return {(str(row.at["method"]), str(row.at["pair"])): row for row in found}


def test_a_row_is_over_the_seeds() -> None:
    row = rows()["kd", "a"]
    last, best, val, epoch = (row.spreads[name] for name in ("last", "best", "val", "best_epoch"))
    assert last is not None and (last.n, last.mean) == (3, pytest.approx(fmean([63.0, 63.5, 66.0])))
    assert last.sd == pytest.approx(stdev([63.0, 63.5, 66.0]))
    assert best is not None and best.mean == pytest.approx(last.mean + 1)
    assert val is not None and val.mean == pytest.approx(last.mean + 2)
    assert epoch is not None and (epoch.mean, row.epochs) == (231, 240)
    assert row.seconds == 3 * 2 * 50 and row.devices == ("cpu",)
    assert row.recipe == "240 epochs, batch 64, sgd 0.05"
    assert not row.against and not row.is_baseline


def test_a_table_for_each_pair_and_rows_in_the_order_of_the_file() -> None:
    tables = groups(record_of(NUMBERS, **BASELINE))
    assert [(table.at, [row.at["method"] for row in table.rows]) for table in tables] == [
        ({"pair": "a"}, ["ce", "kd", "crd"]),
        ({"pair": "b"}, ["ce", "kd"]),
    ]
    assert [table.few for table in tables] == [False, True]


def test_tables_of_one_row_each_are_one() -> None:
    (table,) = groups(record_of({("kd", "a"): [1.0], ("kd", "b"): [2.0]}, baseline={"pair": "a"}))
    assert table.named == ("pair",) and table.at == {"method": "kd"}
    (table,) = groups(record_of({("kd", "a"): [1.0], ("ce", "b"): [2.0]}))
    assert table.named == ("method", "pair") and len(table.rows) == 2


def test_missing_cells_are_told_and_not_averaged() -> None:
    record = record_of(NUMBERS, **BASELINE)
    (row,) = [row for group in groups(record) for row in group.rows if row.missing]
    assert row.at == {"method": "kd", "pair": "b"} and row.n == 2
    assert row.missing == {"kd.b.seed1": "not run"}
    assert row.spreads["last"] is not None and row.spreads["last"].mean == 71.25
    record["failed"] = {"student.kd.b.seed1": "loss is not finite"}
    assert groups(record)[1].rows[1].missing == {"kd.b.seed1": "loss is not finite"}
    record["failed"] = {"teacher": "out of memory"}
    assert groups(record)[1].rows[1].missing == {"kd.b.seed1": "out of memory"}


def test_a_row_of_which_nothing_is_done() -> None:
    row = rows({("kd", "a"): [None, None], ("ce", "a"): [1.0, 2.0]}, **BASELINE)["kd", "a"]
    assert (row.n, row.seconds, row.spreads["last"], row.against) == (0, 0.0, None, {})


def test_differences_are_paired_over_the_seeds_that_both_have() -> None:
    found = rows(**BASELINE)
    assert found["ce", "a"].is_baseline and not found["ce", "a"].against
    differences = [3.0, 2.5, 4.0]
    kd = found["kd", "a"].against["last"]
    assert (kd.n, kd.difference) == (3, pytest.approx(fmean(differences)))
    assert (kd.low, kd.high) == pytest.approx(bootstrap(differences))
    assert kd.p == pytest.approx(t_test(differences))
    ps = [t_test([0.5, 0.0, -1.0]), t_test(differences)]
    assert found["crd", "a"].against["last"].p_holm == pytest.approx(holm([p for p in ps if p is not None])[0])
    assert kd.p_holm == pytest.approx(2 * (t_test(differences) or 0))  # of the two comparisons of its table
    assert found["kd", "a"].against["best"].difference == pytest.approx(kd.difference)
    assert found["kd", "b"].against["last"] == Against(2, pytest.approx(0.25))  # seeds 0 and 2; too few for more


def test_a_pair_without_the_baseline_is_compared_with_nothing() -> None:
    found = rows({("ce", "a"): [1.0, 2.0, 3.0], ("kd", "a"): [2.0, 3.0, 5.0], ("kd", "b"): [1.0, 2.0, 3.0]}, **BASELINE)
    assert found["kd", "a"].against and not found["kd", "b"].against


def test_seeds_that_share_a_result_count_once() -> None:
    record = record_of(NUMBERS, **BASELINE)
    for seed in (1, 2):
        record["variants"][f"ce.a.seed{seed}"]["stages"]["student"] = "student.ce.a.seed0"
    row = groups(record)[0].rows[0]
    assert row.n == 1 and row.same == ("ce.a.seed1", "ce.a.seed2") and not row.missing
    assert groups(record)[0].rows[1].against["last"] == Against(1, 3.0)  # no p against one baseline three times


def test_accelerators_count_and_other_recipes_are_told_apart() -> None:
    record = record_of({("kd", "a"): [1.0], ("ce", "a"): [1.0]})
    record["stages"][1] |= {"world_size": 0, "device": "H200", "test_best": None, "best_epoch": None}
    record["stages"][1]["made_of"]["data"]["views"] = 4
    record["stages"][1]["made_of"]["train"]["optimizer"] = {"type": "adamw", "lr": 0.001}
    row = groups(record)[0].rows[0]
    assert (row.seconds, row.devices) == (50.0, ("H200",))
    assert row.recipe == "240 epochs, batch 64, 4 views, adamw 0.001"
    assert row.spreads["best"] is None and row.spreads["val"] is None and row.spreads["best_epoch"] is None


def test_published_numbers_stand_at_their_row() -> None:
    one = {"method": "kd", "pair": "a", "top1": 70.66, "recipe": "r", "source": "s", "seeds": 3}
    found = rows(published=[one])
    (number,) = found["kd", "a"].published
    assert (number.top1, number.seeds, number.std) == (70.66, 3, None)
    assert not found["kd", "b"].published


def test_a_matrix_of_seeds_alone() -> None:
    record = record_of({("kd", "a"): [1.0, 2.0, 3.0]})
    record["matrix"]["cells"] = {name: {"seed": at["seed"]} for name, at in record["matrix"]["cells"].items()}
    (table,) = groups(record)
    assert len(table.rows) == 1 and table.rows[0].n == 3 and table.named == ()
