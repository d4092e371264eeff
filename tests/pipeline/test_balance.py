"""`balance:` from the file to the record: what is refused, what it is named by, and that it leaves no other trace."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdray.errors import Interrupted
from kdray.experiment import load_experiment
from kdray.experiment.yaml_text import parse
from kdray.models import load_exported
from kdray.pipeline.checks import with_shares
from kdray.pipeline.plan import Plan, make_plan
from kdray.store import Store
from kdray.train.spec import StageSpec
from kdray.train.worker import StageWorker
from tests.tiny import Lab

KD = {"balance": {"shares": {"kd": 0.5}, "batches": 1}}
# Banks, dropout-free; three epochs, so that there is something to interrupt.
RICH: dict[str, Any] = {
    "objectives": {"clmkd.class_guided": {"positives": 2, "negatives": 8, "dim": 5}, "at": {"weight": 10}},
    "train": {"epochs": 3, "ema": 0.5},
    "balance": {"share": 0.5, "batches": 2},
}


def plan_of(lab: Lab, changes: dict[str, Any] | None = None) -> Plan:
    return make_plan(load_experiment(lab.write(changes)), dry=True)


def digests(lab: Lab, changes: dict[str, Any]) -> dict[str, str]:
    plan = plan_of(lab, {"student": {"alone": True}} | changes)
    return {stage.name: stage.digest for stage, _ in plan.stages}


def student(record: dict[str, Any]) -> dict[str, Any]:
    (stage,) = [stage for stage in record["stages"] if stage["stage"] == "student"]
    return stage


def losses(stage: dict[str, Any]) -> list[dict[str, float]]:
    return [{key: row[key] for key in row if key.startswith(("loss", "val"))} for row in stage["history"]]


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = (load_file(f"{stage['artifact']}/last.safetensors") for stage in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_names_the_student_and_nobody_else(lab: Lab) -> None:
    plain, balanced = digests(lab, {}), digests(lab, KD)
    assert {name for name in plain if plain[name] != balanced[name]} == {"student"}
    assert digests(lab, {"balance": {"shares": {"kd": 0.5}, "to": "ce", "batches": 1}}) == balanced
    assert digests(lab, {"balance": {"share": 0.5, "batches": 1}}) == balanced  # kd is all there is
    for other in ({"shares": {"kd": 0.4}, "batches": 1}, {"shares": {"kd": 0.5}}, {"shares": {"ce": 0.5}, "to": "kd"}):
        assert digests(lab, {"balance": other})["student"] not in (plain["student"], balanced["student"])
    only_labels = {"objectives": {"kd": None}}
    assert digests(lab, only_labels | {"balance": {"share": 0.5}}) == digests(lab, only_labels)


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"balance": {"shares": {"kdd": 1.0}}},
            "balance.shares.kdd: no part 'kdd' (did you mean 'kd'?). Parts here: ce, kd",
        ),
        ({"balance": {"share": 1.0, "to": "clmkd.ce"}}, "balance.to: no part 'clmkd.ce'"),
        ({"balance": {"share": 1.0}, "objectives": {"ce": {"weight": 0}}}, "balance.to: no part is a cross-entropy"),
        ({"balance": {"share": -1.0}}, "balance.share: -1.0 is out of range"),
        (
            {"balance": {"shares": {"clmkd": 1.0}}, "objectives": {"clmkd": {}}},
            "balance.shares.clmkd: clmkd is made of parts. Name them: clmkd.ce, clmkd.kd",
        ),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--dry-run",)], ids=["run", "dry"])
def test_a_wrong_name_costs_no_time(
    lab: Lab, nothing_runs: None, changes: dict[str, Any], said: str, arguments: tuple[str, ...]
) -> None:
    error = lab.run(*arguments, changes=changes).error(2)
    assert said in error and error.startswith(str(lab.folder / "tiny.yaml:"))
    assert lab.artifacts() == []


def test_the_plan_says_it(lab: Lab) -> None:
    done = lab.run("--dry-run", changes=RICH)
    (line,) = [line for line in done.out.splitlines() if "balance" in line]
    assert line == (
        "  balance: weights are set before the first step so that gradients on the pooled vector are at 0.5, "
        "clmkd.class_guided 0.5, kd 0.5 of ce's, measured on 2 batches"
    )
    assert "balance" not in lab.run("--dry-run").out


def test_a_balanced_run_is_the_run_of_its_weights_bit_for_bit(lab: Lab) -> None:
    done = lab.run(changes=RICH)
    balanced = student(lab.record(done))
    found = balanced["balance"]
    assert found["reference"] == "ce" and found["batches"] == 2 and found["shares"]["kd"] == 0.5
    assert set(found["kept"]) == {"at"} and found["weights"]["at"] == 10.0
    assert all(found["weights"][name] != found["weights_before"][name] for name in ("kd", "clmkd.class_guided"))
    assert json.loads(Path(balanced["artifact"], "balance.json").read_text()) == found
    assert load_exported(f"{balanced['artifact']}/model.json")[1]["balance"] == found

    (line,) = [line for line in done.out.splitlines() if line.startswith("    as YAML: ")]
    by_hand = parse(line.removeprefix("    as YAML: "), "line").value
    assert by_hand["objectives"] == found["objectives"]
    objectives = {name: RICH["objectives"].get(name, {}) | own for name, own in by_hand["objectives"].items()}
    objectives["at"] = RICH["objectives"]["at"]
    frozen = student(lab.done(changes={**RICH, "objectives": objectives, "balance": None}))
    assert frozen["digest"] != balanced["digest"] and "balance" not in frozen
    assert losses(frozen) == losses(balanced) and same_weights(frozen, balanced)
    # And the weights do matter.
    plain = student(lab.done(changes={**RICH, "balance": None}))
    assert not same_weights(plain, balanced)


def test_streamed_images_are_measured_and_trained_on_alike(lab: Lab) -> None:
    kept = student(lab.done(changes=RICH))
    streamed = student(lab.done("--fresh", changes={**RICH, "data": {"mode": "stream"}}))
    assert streamed["artifact"] != kept["artifact"] and streamed["balance"] == kept["balance"]
    assert losses(streamed) == losses(kept) and same_weights(streamed, kept)


def test_the_run_and_its_end_say_what_was_set(lab: Lab) -> None:
    done = lab.run(changes=RICH)
    found = student(lab.record(done))["balance"]
    lines = done.out.splitlines()
    assert "warning: at keeps its weight 10: it does not reach the student's pooled vector" in lines
    start = next(n for n, line in enumerate(lines) if line.startswith("  balance: weights set now and kept."))
    assert lines[start].endswith("mean over batch 2")
    assert {line.split()[0] for line in lines[start + 1 : start + 6]} == {"part", *found["norms"]}
    (kd,) = [line for line in lines[start:] if line.startswith("    kd ")]
    assert kd.split()[2:] == [
        f"{found['shares_before']['kd']:.3g}",
        "->",
        "0.5",
        "1",
        "->",
        f"{found['weights']['kd']:g}",
    ]
    assert any(
        line.startswith("student distilled: weights balanced to ce: ")
        and f"kd 1 -> {found['weights']['kd']:g} (share 0.5)" in line
        and "at kept 10 (it does not reach the student's pooled vector)" in line
        for line in lines
    )


class Patience:
    """A listener that asks for a stop once it was asked so often."""

    def __init__(self, patience: int) -> None:
        self.patience, self.events = patience, []

    def event(self, kind: str, values: dict[str, Any]) -> None:
        self.events.append((kind, values))

    def stop_requested(self) -> bool:
        self.patience -= 1
        return self.patience < 0


@pytest.fixture
def spec(lab: Lab) -> StageSpec:
    """What the workers of a balanced student are told, whose teacher is trained."""
    lab.done(changes={**RICH, "student": None, "balance": None})
    _, (stage, _) = make_plan(load_experiment(lab.write({**RICH, "train": RICH["train"] | {"log_every": 1}}))).stages
    return with_shares(stage.spec, None, use_ray=False)


@pytest.mark.parametrize("patience", [0, 3])
def test_a_resumed_run_has_the_weights_that_it_began_with(
    spec: StageSpec, patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = replace(spec, folder="artifacts/whole")
    whole = StageWorker(elsewhere, Patience(1000)).run()
    first = Patience(patience)
    with pytest.raises(Interrupted, match="state saved"):
        StageWorker(spec, first).run()
    monkeypatch.setattr("kdray.train.worker.balanced", lambda *_: pytest.fail("measured again"))
    second = Patience(1000)
    resumed = StageWorker(spec, second).run()
    assert resumed["resumed_from"] > 0 and resumed["balance"] == whole["balance"]
    assert losses(resumed) == losses(whole)
    store = Store(spec.store)
    assert store.read_bytes(f"{spec.folder}/last.safetensors") is not None
    ours, theirs = (
        load_file(store.path_uri(f"{folder}/last.safetensors")) for folder in (spec.folder, elsewhere.folder)
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    told = [
        [values["earlier"] for kind, values in listener.events if kind == "balance"] for listener in (first, second)
    ]
    assert told == [[False], [True]]


def test_what_is_frozen_is_what_is_trained_with(spec: StageSpec) -> None:
    """Also before the first checkpoint: a run that was killed in its first minutes does not measure anew."""
    first = StageWorker(spec, Patience(1000)).run()
    store = Store(spec.store)
    found = store.read_json(f"{spec.folder}/balance.json")
    shutil.rmtree(store.path_uri(spec.folder))
    changed = found | {"objectives": {"kd": {"weight": 7.0}}, "weights": found["weights"] | {"kd": 7.0}}
    store.write_json(f"{spec.folder}/balance.json", changed)
    again = StageWorker(spec, Patience(1000)).run()
    assert again["balance"]["weights"]["kd"] == 7.0 and losses(again) != losses(first)


def test_a_small_version_is_balanced_too(lab: Lab) -> None:
    done = lab.run("--smoke", changes=RICH)
    assert done.code == 0, done.err
    assert "  balance: weights set now and kept." in done.out


def test_variants_have_their_own(lab: Lab) -> None:
    changes = {
        "balance": {"share": 0.5, "batches": 1},
        "variants": {"ce": {"objectives": {"kd": None}}, "kd": {}, "plain": {"balance": None}},
    }
    path = lab.write({key: value for key, value in changes.items() if key != "variants"})
    text = path.read_text() + "variants: {ce: {objectives: {kd: null}}, kd: {}, plain: {balance: null}}\n"
    path.write_text(text)
    from kdray.experiment import load_comparison

    plan = make_plan(load_comparison(path), dry=True)
    balances = {stage.name: stage.spec.balance for stage, _ in plan.stages}
    assert balances["student.ce"] is None and balances["student.plain"] is None
    assert balances["student.kd"] is not None and balances["student.kd"].shares == {"kd": 0.5}
