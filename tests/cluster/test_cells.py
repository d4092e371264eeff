"""A matrix on Ray: cells run side by side, one that fails takes no other along, and later commands run what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cluster.conftest import TROUBLE, Place
from tests.cluster.searches import run_several


def made(record: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Folder of every finished stage of a run, and whether an earlier command made it."""
    return {stage["stage"]: (stage["artifact"], stage["reused"]) for stage in record["stages"]}


def test_matrix_with_a_cell_that_fails(joined: Place) -> None:
    """Two methods and two seeds, then a seed more; in the first of the second method's cells an exception, once."""
    trouble = TROUBLE | {"folder": str(joined.folder), "raise_at": [20]}
    experiment = joined.write(
        teacher={"seed": 0},
        objectives={"clmkd.class_guided": None},
        train={"epochs": 2},
        matrix={
            "method": {"kd": {}, "troubled": {"objectives": {"trouble": trouble}}},
            "seed": [0, 1],
            "baseline": {"method": "kd"},
        },
    )
    # The record is read after every command: the next one writes it anew.
    path, whole = str(experiment), joined.runs / "artifacts"
    (first,) = run_several(joined, [[path]])
    assert first["code"] == 1
    failed = json.loads(Path(first["record"].removeprefix("file://")).read_text())
    assert failed["status"] == "failed" and len(failed["stages"]) == 4
    ((stage, said),) = failed["failed"].items()
    assert stage.startswith("student.troubled.seed") and "ValueError: trouble at step 20" in said
    begun = joined.runs / failed["planned"][stage]
    assert "own.py" in (begun / "traceback.txt").read_text() and not (begun / "record.json").exists()
    before = {at.parent.name: at.read_bytes() for at in whole.glob("*/record.json")}
    assert len(before) == 4, "a teacher for all and three students"
    printed = (joined.folder / "commands-0.log").read_text()
    assert "1 of the matrix's 5 stages failed" in printed and "│ kd" in printed, printed

    second, third = run_several(joined, [[path], [path, "--set", "matrix.seed=[0,1,2]"]])
    assert [second["code"], third["code"]] == [0, 0]
    after = {at.parent.name: at.read_bytes() for at in whole.glob("*/record.json")}
    assert len(after) == 7 and after.items() >= before.items(), "what was done was done again"
    done = made(json.loads(Path(second["record"].removeprefix("file://")).read_text()))
    assert [name for name, (_, reused) in done.items() if not reused] == [stage]
    assert json.loads((begun / "record.json").read_text())["resumed_from"] >= 15, "it began anew"
    more = made(json.loads(Path(third["record"].removeprefix("file://")).read_text()))
    new = [name for name, (_, reused) in more.items() if not reused]
    assert sorted(new) == ["student.kd.seed2", "student.troubled.seed2"]
