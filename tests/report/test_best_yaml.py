"""The comment that opens best.yaml."""

from __future__ import annotations

import pytest
import yaml

from kdray.report.best_yaml import best_header
from tests.report.searches import facts, trial

RECORD = {"name": "cifar\nx: 1", "seed": 0, "uri": "s3://bucket/runs/runs/cifar-0011/record.json"}


def test_it_says_what_was_found_and_stays_a_comment() -> None:
    parameters = {"method": "a\rb: 2", "train.optimizer.lr": 0.123456, "shape": [1, 2]}
    header = best_header(facts([trial(0, "done", [0.2]), trial(1, "done", [0.5, 0.4], parameters=parameters)]), RECORD)
    assert header.splitlines() == [
        "# cifar x: 1: trial 1 of 2, the best by highest val/top1",
        "# val/top1 50.00 % on validation images (test images took no part), at epoch 1 of 8, seed 0",
        "# found by tpe (seed 0), scheduler asha (grace_epochs 1, reduction 3): " + RECORD["uri"],
        "#   method = a b: 2",
        "#   train.optimizer.lr = 0.1235",
        "#   shape = [1, 2]",
        "# to train it and judge it on test: python -m kdray.run best.yaml",
    ]
    assert yaml.safe_load(header + "name: x\n") == {"name": "x"}


def test_a_search_by_time_without_a_scheduler() -> None:
    found = facts([trial(3, "done", [0.5])], metric="images_per_s", max_epochs=None, scheduler=None, searcher="random")
    header = best_header(found, RECORD)
    assert "# images_per_s 0.5, at epoch 1, seed 0\n# found by random, scheduler none: " in header


def test_without_a_best_trial_there_is_none() -> None:
    with pytest.raises(ValueError, match="no best trial"):
        best_header(facts([trial(0, "failed")]), RECORD)
