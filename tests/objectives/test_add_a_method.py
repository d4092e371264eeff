"""The guide's own code, as it stands on the page: trained, resumed, refused where it must be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdray.objectives import ObjectiveSet

from ..tiny import Lab
from .cases import make_case, make_setup

GUIDE = Path(__file__).parents[2] / "docs" / "add-a-method.md"


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(found) == 1
    return found[0]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `my_methods.py` of the guide in it, from where the command runs."""
    (tmp_path / "my_methods.py").write_text(block("python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "my_methods", raising=False)
    return tmp_path


@pytest.fixture
def objectives() -> dict[str, Any]:
    return yaml.safe_load(block("yaml"))["objectives"]


def test_the_page_trains_a_student(written: Path, digits: Path, objectives: dict[str, Any]) -> None:
    objectives["centred"]["schedule"]["epochs"] = 1
    changes = {"objectives": objectives, "train": {"epochs": 2}}
    record = Lab(written, digits).done(changes=changes)
    (row, last) = record["stages"][-1]["history"]
    assert 0 < row["loss/centred"] < 2 and row["loss/centred.mean_length"] > 0
    assert "loss/centred" not in last  # tapered off


def test_a_changed_module_trains_anew(written: Path, digits: Path, objectives: dict[str, Any]) -> None:
    lab = Lab(written, digits)
    objectives["centred"].pop("schedule")
    first = lab.done(changes={"objectives": objectives})["stages"][-1]["artifact"]
    module = written / "my_methods.py"
    module.write_text(module.read_text() + "\n# changed\n")
    assert lab.done(changes={"objectives": objectives})["stages"][-1]["artifact"] != first


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("momentun", 0.5, "did you mean 'momentum'"),
        ("distance", "cosin", "should be 'cosine' or 'squared'"),
        ("type", "my_methods:CenteredCosine", "did you mean 'CentredCosine'"),
    ],
)
def test_mistakes_are_named(
    written: Path, digits: Path, objectives: dict[str, Any], key: str, value: Any, said: str
) -> None:
    objectives["centred"][key] = value
    error = Lab(written, digits).run(changes={"objectives": objectives}).error()
    assert "objectives.centred" in error and said in error


def test_its_gradient_and_its_rows(written: Path) -> None:
    setup = make_setup()
    case = make_case(setup, 8)
    one = ObjectiveSet({"one": {"type": "my_methods:CentredCosine"}}, setup)
    report = case.run(one)
    report.total.backward()
    assert case.student_pooled.grad is not None and case.student_pooled.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in one.parameters())
    assert report.weights == {"one": 10.0, "one.mean_length": 0.0}
