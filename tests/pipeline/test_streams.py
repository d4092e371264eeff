"""Whether a run streams anything is known before it starts, for every feed that its stages will open."""

from __future__ import annotations

from typing import Any

import pytest

from kdray.data.dataset import open_dataset
from kdray.experiment.load import experiment_from_dict
from kdray.pipeline.members import Member
from kdray.pipeline.streams import any_streams
from tests.tiny import TINY, Lab

MIB = 1024**2
SIDE = 64
JUDGED = 3 * SIDE**2  # bytes of an image that evaluation keeps


@pytest.mark.parametrize(
    ("limit_bytes", "changes", "expected"),
    [
        (200 * JUDGED, {}, False),
        (100 * JUDGED, {}, True),  # test: 160 images
        (200 * JUDGED, {"evaluate": {"linear_probe": True}}, True),  # train, as evaluation sees it: 400 images
        (200 * JUDGED, {"evaluate": {"linear_probe": {"limit": 150}}}, False),
        (200 * JUDGED, {"teacher": {"classifier": False, "objectives": {"simclr": {}}}}, True),
        (500 * JUDGED, {"evaluate": {"linear_probe": True}}, False),
    ],
)
def test_all_feeds_count(lab: Lab, limit_bytes: int, changes: dict[str, Any], expected: bool) -> None:
    data = {"root": str(lab.digits), "limit": 400, "test_limit": 160, "resident_limit_bytes": limit_bytes}
    data |= {"eval_transform": [{"resize": {"size": SIDE}}, {"center_crop": {"size": SIDE}}], "validation": 0}
    teacher = {"model": "resnet8"} | changes.get("teacher", {})
    tree = TINY | changes | {"data": TINY["data"] | data, "teacher": teacher, "storage": str(lab.store)}
    experiment = experiment_from_dict(tree)
    member = Member("", experiment, open_dataset(experiment.data), [], [])
    assert any_streams([member]) == expected
