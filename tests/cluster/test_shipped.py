"""Small versions of the experiments that come with kdray, on one Ray cluster: of every file some variants, so that over
all files every method trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdray.experiment import Experiment, load_comparison
from kdray.objectives import methods
from tests.cluster.command import BIN, REPOSITORY, Process, running
from tests.cluster.conftest import Place

FORTY_MINUTES_S = 2400.0  # it takes a tenth of that on two quiet cores
FOLDER = REPOSITORY / "experiments"
# To start a stage's workers takes longer than all that they do, and Ray does not see what tells most files apart: their
# networks and objectives. These go through it: a teacher with objectives of its own, one without a classifier, streams.
# And a search, which has no other way; of those, one does.
SEARCH = "cifar100_search_clmkd"
ON_RAY = {"quickstart", "cifar100_clmkd", "cifar100_intra_class", "cifar100_ssl_teacher", "imagenet_clmkd", SEARCH}
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "base")


def wanted(experiment: Experiment) -> set[str]:
    """Names of the objectives that a run of `experiment` trains with."""
    teacher = experiment.teacher
    return set(experiment.objectives) | set(teacher.objectives if teacher and not teacher.weights else ())


def sample() -> dict[Path, list[str]]:
    """Some variants of every file, such that each objective that stands in any file is in one of them.

    Files take turns, each with the variant that brings most of what is left. One without variants is run whole ("").
    """
    there = {path: {name: wanted(e) for name, e in load_comparison(path).experiments.items()} for path in FILES}
    left = {name for variants in there.values() for names in variants.values() for name in names}
    taken: dict[Path, list[str]] = {}
    for path in sorted(FILES, key=lambda path: "" not in there[path]):
        best = max(there[path], key=lambda name: len(there[path][name] & left))
        taken[path] = [best]
        left -= there[path][best]
    while left:
        before = len(left)
        for path, variants in there.items():
            best = max(variants, key=lambda name: len(variants[name] & left))
            if variants[best] & left:
                taken[path].append(best)
                left -= variants[best]
        assert len(left) < before
    return taken


def teachers(path: Path, variants: list[str]) -> list[str]:
    """The teachers alone, made without Ray."""
    without = ["student=null", "cluster.workers=0", *(["search=null"] if load_comparison(path).first.search else [])]
    return [*selection(path, variants), *sets(without)]


def arguments(path: Path, variants: list[str]) -> list[str]:
    one = load_comparison(path).experiments[variants[0]]
    alone = ["student.alone=false"] if one.student else []  # cross-entropy alone is a variant's
    search = ["search=null"] if one.search and path.stem != SEARCH else []
    where = [] if path.stem in ON_RAY else ["cluster.workers=0"]
    return [*selection(path, variants), *sets([*alone, *search, *where])]


def sets(changes: list[str]) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def selection(path: Path, variants: list[str]) -> list[str]:
    return [str(path), "--smoke", *([] if variants == [""] else ["--variant", ",".join(variants)])]


def test_every_file_and_every_method(joined: Place) -> None:
    chosen = sample()
    commands = [
        command
        for path, variants in chosen.items()
        for command in (teachers(path, variants), arguments(path, variants))
    ]
    (joined.folder / "commands.json").write_text(json.dumps(commands))
    python = [BIN / "python", "-m", "tests.cluster.several", "commands.json", "done.json"]
    # Nobody takes these nodes away; a process less for every stage.
    env = joined.env | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
    with running(Process(python, joined.folder, env, joined.folder / "several.log")) as process:
        assert process.wait(FORTY_MINUTES_S) == 0, process.output
    outcome = json.loads((joined.folder / "done.json").read_text())
    failed = [command for command, done in zip(commands, outcome, strict=True) if done["code"]]
    assert failed == [], process.output
    ran: set[str] = set()
    for (path, variants), done in zip(chosen.items(), outcome[1::2], strict=True):
        record: dict[str, Any] = json.loads(Path(done["record"]).read_text())
        assert record["status"] == "done" and set(record.get("variants", {"": None})) == set(variants), path
        students = [stage for stage in record["stages"] if stage["stage"].startswith("student")]
        assert not students or record["experiment"]["cluster"]["workers"] == (path.stem in ON_RAY)
        for stage in record["stages"]:
            ran |= {options.get("type", name) for name, options in stage["made_of"]["objectives"].items()}
    # A method made of methods ran them all.
    assert [name for name in methods() if name not in ran and name.partition(".")[0] not in ran] == []
