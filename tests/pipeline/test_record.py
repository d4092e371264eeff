"""The machine-readable record: all that a number needs to mean something, and nothing that must stay secret."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from pathlib import Path

import pytest

from kdray.experiment import experiment_from_dict
from kdray.pipeline import record as record_module
from tests.tiny import Lab, tree_of

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket-81c2",
    "AWS_SESSION_TOKEN": "token-of-the-session-4f1d",
    "RAY_AUTH_TOKEN": "token-of-the-cluster-77ab",
    "HF_TOKEN": "token-of-the-hub-90aa",
}


def test_a_record_says_what_ran_where_with_what(lab: Lab) -> None:
    record = lab.done("--set", "seed=3")
    assert record["command"] == ["kdray", str(lab.folder / "tiny.yaml"), "--set", "seed=3"]
    assert record["seed"] == 3 and record["name"] == "tiny" and record["status"] == "done"
    assert experiment_from_dict(record["experiment"]).seed == 3
    assert len(record["digest"]) == 64 and record["run_id"] == f"tiny-{record['digest'][:8]}"
    started, finished = (datetime.datetime.fromisoformat(record[key]) for key in ("started", "finished"))
    assert started <= finished and started.utcoffset() == datetime.timedelta(0)
    assert record["wall_s"] > 0
    versions, hardware = record["versions"], record["hardware"]
    assert {"kdray", "python", "torch", "torchvision", "ray", "pyarrow", "numpy", "pydantic"} <= versions.keys()
    assert hardware["cpus"] == os.cpu_count() and hardware["memory_gib"] > 0 and hardware["cpu"]
    assert isinstance(hardware["gpus"], list)
    train, validation, test = (record["data"][split] for split in ("train", "validation", "test"))
    assert (train["images"], validation["images"], test["images"], test["of"]) == (64, 64, 64, 359)
    assert train["fingerprint"] == validation["fingerprint"] != test["fingerprint"]
    for stage in record["stages"]:
        assert stage["made_of"]["data"]["fingerprints"] == {
            k: record["data"][k]["fingerprint"] for k in ("train", "test")
        }
        assert stage["device"] and stage["precision"] == "fp32" and stage["world_size"] == 1


@pytest.mark.parametrize("mode", ["resident", "stream"])
def test_a_run_under_label_noise_says_how_many_labels_changed(lab: Lab, mode: str) -> None:
    noise = {"fraction": 0.5, "type": "uniform"}
    done = lab.run(changes={"data": {"mode": mode, "label_noise": noise}, "teacher": None, "objectives": {"kd": None}})
    assert done.code == 0, done.err
    assert "label noise: 32 of 64 training labels are changed" in done.out
    data = lab.record(done)["data"]
    assert data["train"]["labels_changed"] == 32
    assert "labels_changed" not in data["validation"] and "labels_changed" not in data["test"]
    assert data["train"]["fingerprint"] != data["validation"]["fingerprint"]


def test_a_record_holds_no_secret(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    done = lab.run()
    failed = lab.run(changes={"student": {"model": "resnet9"}})
    written = [content for content in tree_of(lab.store).values() if content is not None]
    assert len(written) > 10
    for value in SECRETS.values():
        assert value not in done.out + done.err + failed.out + failed.err
        assert not [1 for content in written if value.encode() in content]


def test_the_record_is_whole_at_every_moment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.train.worker import StageWorker

    seen: list[tuple[str, str, list[str]]] = []
    run = StageWorker.run

    def looking(self: StageWorker) -> dict:
        (folder,) = (lab.store / "runs").iterdir()
        record = json.loads((folder / "record.json").read_text())
        seen.append((self.stage.name, record["status"], [stage["stage"] for stage in record["stages"]]))
        return run(self)

    monkeypatch.setattr(StageWorker, "run", looking)
    lab.done()
    assert seen == [("teacher", "running", []), ("student", "running", ["teacher"])]


def test_the_commit_is_told_with_a_mark_for_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kdray"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(record_module.kdray, "__file__", str(package / "__init__.py"))
    assert record_module.commit() is None  # no checkout
    for arguments in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    clean = record_module.commit()
    assert clean is not None and len(clean) == 12
    (package / "__init__.py").write_text("changed")
    assert record_module.commit() == clean + "+"


def test_versions_name_only_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "PACKAGES", ("torch", "no-such-package"))
    assert "torch" in record_module.versions() and "no-such-package" not in record_module.versions()
