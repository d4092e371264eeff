"""The tables that end a search, from a record alone."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from kdray.report.search_table import best_rows, print_search, search_remarks
from kdray.report.trial_text import metric_text, short_names, value_text, varying
from tests.report.searches import facts, search, trial

SMALL = facts(
    [
        trial(0, "done", [0.3, 0.5, 0.4], parameters={"method": "kd", "objectives.kd.weight": 0.3, "train.epochs": 3}),
        trial(1, "stopped", [0.7], parameters={"method": "ce[1]", "train.epochs": 3}),
        trial(2, "failed", error="DataError: no [such] file"),
        trial(3, "done", [0.6, 0.2], parameters={"method": "kd", "objectives.kd.weight": 2, "train.epochs": 3}),
        trial(4, "waiting"),
    ],
    max_epochs=3,
    wanted=6,
    best=3,
)


def printed(found: dict[str, Any], width: int = 140) -> str:
    out = io.StringIO()
    print_search({"name": "try", "search": found}, Console(file=out, width=width))
    return out.getvalue()


def test_the_best_come_first_and_what_was_stopped_after_them() -> None:
    rows = best_rows(SMALL, count=3)
    assert [list(row.values()) for row in rows] == [
        ["3", "60.00 %", "1", "2", "done", "22.0s", "2", "kd", "3"],
        ["0", "50.00 %", "2", "3", "done", "33.0s", "0.3", "kd", "3"],
        ["1", "70.00 %", "1", "1", "stopped early", "11.0s", "-", "ce[1]", "3"],
    ]
    assert list(rows[0]) == ["trial", "value", "epoch", "epochs", "state", "wall", "weight", "method", "train.epochs"]


def test_a_loss_is_best_when_it_is_low() -> None:
    found = facts(
        [trial(n, value=value) for n, value in enumerate([0.3, 0.1, None, 0.2])], mode="min", metric="val/nll"
    )
    assert [row["trial"] for row in best_rows(found)] == ["1", "3", "0"]
    assert best_rows(found)[0]["value"] == "0.1"


@pytest.mark.parametrize("width", [140, 70])
def test_it_is_printed_whole(width: int) -> None:
    text = printed(SMALL, width)
    assert "try: best 3 of 5 trials by highest val/top1" in text
    for cell in ("60.00 %", "70.00 %", "stopped early", "ce[1]"):
        assert cell in text
    assert "…" not in text


def test_a_narrow_terminal_has_as_many_trials_as_fit() -> None:
    text = printed(search(40), width=60)
    assert max(len(line) for line in text.splitlines()[:12]) <= 60
    best = best_rows(search(40))
    assert f" {best[0]['trial']} " in text.splitlines()[2] and best[0]["value"] in text


def test_the_remarks() -> None:
    assert search_remarks(SMALL) == [
        "trials: 2 done, 1 stopped, 1 failed, 1 waiting of 6 wanted; 6 epochs instead of 9, 8m20s",
        "chosen by highest val/top1 on validation images, of whole trials; the test images took no part in the search",
        "failed trial 2: DataError: no [such] file",
        "best trial 3: s3://bucket/runs/artifacts/search/trials/0003",
    ]


def test_what_else_a_search_leaves_is_named() -> None:
    found = SMALL | {
        "importance": {"train.lr": 0.25, "method": 0.75},
        "transfer": {"words": "rank correlation 0.80 on 4 trials"},
        "best_yaml": "s3://bucket/x/best.yaml",
        "pictures": ["s3://bucket/x/parallel.svg", "s3://bucket/x/parallel.png"],
        "tensorboard": "s3://bucket/x/tensorboard",
    }
    lines = search_remarks(found)
    assert lines[2:6] == [
        "proxy: rank correlation 0.80 on 4 trials",
        "importance (share of the variation of values between trials):",
        "  method   75%  ###############",
        "  lr       25%  #####",
    ]
    assert lines[-3:] == [
        "its experiment: s3://bucket/x/best.yaml",
        "picture: s3://bucket/x/parallel.svg",
        "tensorboard --logdir s3://bucket/x/tensorboard",
    ]


def test_a_search_by_speed_does_not_speak_of_validation() -> None:
    (line,) = [line for line in search_remarks(SMALL | {"metric": "images_per_s"}) if line.startswith("chosen")]
    assert line == "chosen by highest images_per_s, of whole trials; the test images took no part in the search"


def test_an_error_of_many_trials_is_told_once() -> None:
    found = facts([trial(n, "failed", error="it broke") for n in range(9)] + [trial(9, "failed", error=None)])
    lines = search_remarks(found)
    assert "failed trials 0, 1, 2, 3, 4 and 4 more: it broke" in lines
    assert "failed trial 9: no reason is known" in lines
    assert "no trial has a value, so there is no best one" in lines
    assert "best 0 of" not in printed(found)


def test_errors_are_not_printed_without_end() -> None:
    lines = search_remarks(facts([trial(n, "failed", error=f"error {n}") for n in range(13)]))
    assert sum(line.startswith("failed trial") for line in lines) == 10
    assert "and 3 other errors, in the record" in lines


def test_short_names_are_the_shortest_that_tell_apart() -> None:
    assert short_names(
        ["objectives.kd.weight", "objectives.mcld.weight", "train.optimizer.lr", "method", "weight"]
    ) == {
        "objectives.kd.weight": "kd.weight",
        "objectives.mcld.weight": "mcld.weight",
        "train.optimizer.lr": "lr",
        "method": "method",
        "weight": "weight",
    }


def test_numbers_as_people_read_them() -> None:
    assert metric_text("val/top1", 0.41234) == "41.23 %" and metric_text("val/nll", 1.23456) == "1.235"
    assert metric_text("val/top1", None) == "-" and metric_text("images_per_s", 812.34) == "812.3"
    texts = [value_text(value) for value in (0.00012345, 3, True, "cosine", [1, 2], {"a": 1}, None)]
    assert texts == ["0.0001234", "3", "true", "cosine", "[1, 2]", '{"a": 1}', "-"]


def test_what_varies() -> None:
    assert varying(SMALL) == ["objectives.kd.weight", "method", "train.epochs"]
    assert varying(SMALL | {"space": {"train.epochs": "int(1, 3)"}}) == [
        "train.epochs",
        "method",
        "objectives.kd.weight",
    ]
    assert varying(SMALL | {"trials": SMALL["trials"][:1] + SMALL["trials"][3:4]}) == ["objectives.kd.weight"]
    assert varying(SMALL | {"trials": SMALL["trials"][:1]}) == ["objectives.kd.weight", "method", "train.epochs"]
