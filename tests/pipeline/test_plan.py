"""`--dry-run`: it says what a run would do, checks what can be checked from here, and leaves nothing behind."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kdray.data.digits import digit_samples
from kdray.data.writer import write_shards
from kdray.experiment import ModelSpec
from kdray.models.zoo import describe
from kdray.report.plan_text import readable_count
from tests.conftest import S3
from tests.tiny import Lab, tree_of

ELSEWHERE = {
    "source": None,
    "root": None,
    "classes": 10,
    "samples": 5000,
    "eval_transform": [{"center_crop": {"size": 32}}],
}


def artifacts(out: str) -> list[str]:
    return re.findall(r"^  artifact (.*)$", out, re.MULTILINE)


def not_checked(out: str) -> list[str]:
    return [line.removeprefix("NOT CHECKED  ") for line in out.splitlines() if line.startswith("NOT CHECKED")]


@pytest.fixture
def nothing_left(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Call it with changes to make a dry run that must leave every file as it was; returns what it printed."""
    scratch = lab.folder / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))  # torch makes it for itself

    def dry(changes: dict[str, Any] | None = None, *arguments: str) -> str:
        lab.write(changes)
        before = tree_of(lab.folder)
        done = lab.run("--dry-run", *arguments, changes=changes)
        assert (done.code, done.err) == (0, ""), done.err
        assert tree_of(lab.folder) == before
        return done.out

    return dry


def test_a_dry_run_leaves_nothing_and_a_run_does_what_it_said(lab: Lab, nothing_left: Any) -> None:
    changes = {"data": {"root": str(lab.folder / "not" / "yet")}, "storage": str(lab.folder / "a" / "b")}
    out = nothing_left(changes)
    assert not_checked(out) == [] and out.count("[to do]") == 2
    record = lab.done(changes=changes)
    assert list(record["planned"].values()) == artifacts(out)
    assert f"run {record['run_id']}" in out
    again = nothing_left(changes)
    assert artifacts(again) == artifacts(out) and again.count("[done]") == 2


def test_a_dry_run_of_the_small_version_leaves_nothing(lab: Lab, nothing_left: Any) -> None:
    changes = {"data": {"source": "cifar100", "root": str(lab.folder / "nowhere")}}
    out = nothing_left(changes, "--smoke")
    assert "smoke: data: handwritten digits stand in for cifar100" in out and "100 classes" in out
    assert not_checked(out) == []
    record = lab.done("--smoke", changes=changes)
    assert list(record["planned"].values()) == artifacts(out)


def test_the_plan_counts(lab: Lab, nothing_left: Any) -> None:
    out = nothing_left({"train": {"epochs": 3}, "data": {"limit": 80}, "student": {"alone": True}})
    assert "data: train 80, validation 80, test 64 images, 10 classes, 32 px, resident" in out
    assert out.count("3 epochs x 2 steps of 32 = 6 steps, 192 samples (16 of each epoch dropped)") == 3
    teacher = describe(ModelSpec(model="resnet8", params={"width": 0.25}), 10, 32)
    student = describe(ModelSpec(model="resnet8", params={"width": 0.125}), 10, 32)
    assert teacher.flops is not None and student.flops is not None
    stages = out.split("stage ")[1:]
    for stage, info, flops in zip(
        stages,
        (teacher, student, student),
        (3 * teacher.flops, 3 * student.flops, 3 * student.flops + teacher.flops),
        strict=True,
    ):
        assert (
            f"{readable_count(info.parameters)} parameters, {readable_count(info.flops)} FLOPs per image forward, "
            f"{readable_count(flops)} per image trained" in stage
        )
        assert "memory per worker about" in stage
    assert f"teacher resnet8: {readable_count(teacher.parameters)} parameters" in stages[2]
    assert "objectives: ce, kd" in stages[2] and "kd" not in stages[1]


def test_the_plan_says_what_it_takes_of_train_and_how_many_labels_change(lab: Lab, nothing_left: Any) -> None:
    few = {"data": {"limit": None, "fraction": 0.25, "label_noise": {"fraction": 0.2, "type": "uniform"}}}
    out = nothing_left(few)
    images = int(re.findall(r"train (\d+), validation", out)[0])
    assert abs(images - 1438 * 0.9 * 0.25) < 12 and "      0.25 of every class of train\n" in out
    assert f"label noise (uniform, 0.2): {round(images * 0.2)} of {images} training labels are changed\n" in out
    unread = nothing_left({"data": few["data"] | {"root": str(lab.folder / "none"), "source": "cifar10"}})
    assert "train 11250, " in unread and "(uniform, 0.2): ? of 11250 training labels" in unread


def test_the_plan_names_banks_and_their_size(lab: Lab, nothing_left: Any) -> None:
    out = nothing_left({"objectives": {"clmkd.class_guided": {"mode": "memory"}}})
    (line,) = [line for line in out.splitlines() if "clmkd.class_guided" in line and "memory per worker" in line]
    assert re.search(r"clmkd\.class_guided \d+ MiB", line)


def test_the_plan_shares_the_cpus(nothing_left: Any) -> None:
    assert "cluster: one process, without Ray" in nothing_left()
    cluster = {"workers": 2, "cpus_per_worker": 0.25, "data_cpus": 0.5}
    out = nothing_left({"cluster": cluster, "data": {"mode": "stream"}})
    assert "cluster: 2 Ray workers, 0.25 CPU each and 0.25 for the data of each, a GPU each if there are" in out
    assert "px, streamed, though small: data.mode auto would decode them once and keep them\n" in out
    assert "px, streamed\n" in nothing_left({"data": {"mode": "stream", "resident_limit_bytes": 1000}})


def test_an_experiment_for_gpus_is_planned_without_them(nothing_left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = nothing_left(
        {"cluster": {"workers": 512, "gpus_per_worker": 1}, "train": {"batch": 512}, "data": {"limit": None}}
    )
    devices, cpus = not_checked(out)
    assert devices.startswith("devices: cluster.gpus_per_worker: 512 workers x 1 GPU do not fit")
    assert cpus.startswith("CPUs: cluster.workers: 512 workers on")


# -- what cannot be reached from here ----------------------------------------------------------------------------------


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


def test_a_clusters_experiment_is_planned_from_what_it_declares(nothing_left: Any, no_credentials: None) -> None:
    data = ELSEWHERE | {"train": "s3://bucket/train", "test": "s3://bucket/test", "limit": None, "validation": 0}
    out = nothing_left(
        {"data": data, "storage": "s3://bucket/runs", "teacher": {"weights": "s3://bucket/t.safetensors"}}
    )
    assert [line.partition(":")[0] for line in not_checked(out)] == ["data", "weights", "storage"]
    assert all("endpoint http://127.0.0.1:9 does not answer" in line for line in not_checked(out))
    assert "train 5000, test ? images, 10 classes, 32 px" in out and "156 steps of 32" in out
    # No name is promised that a run would not have.
    assert out.count("digest not known") == 3 and out.count("[state not known]") == 2 and "artifacts/" not in out


def test_a_path_of_another_machine_is_planned_when_declared(lab: Lab, nothing_left: Any) -> None:
    data = ELSEWHERE | {"train": "/mnt/of/a/cluster/train", "test": "/mnt/of/a/cluster/test-*.parquet"}
    out = nothing_left({"data": data})
    (line,) = not_checked(out)
    assert line.startswith("data: data.train /mnt/of/a/cluster/train: does not exist")
    assert out.count("digest not known") == 3 and "artifacts/" not in out
    # A run finds it missing all the same, and an experiment that declares nothing has made a mistake.
    assert "data.train /mnt/of/a/cluster/train: does not exist" in lab.run(changes={"data": data}).error()
    said = lab.run("--dry-run", changes={"data": data | {"samples": None}}).error()
    assert "data.train /mnt/of/a/cluster/train: does not exist" in said


def test_what_is_too_little_declared_is_said(lab: Lab, no_credentials: None) -> None:
    said = lab.run("--dry-run", changes={"data": ELSEWHERE | {"train": "s3://bucket/train", "classes": None}}).error()
    assert "does not answer" in said
    assert "With data.classes, data.samples and a data.eval_transform a dry run plans without it" in said


def test_what_can_be_read_and_is_wrong_stays_wrong(lab: Lab) -> None:
    write_shards(list(digit_samples("train"))[:80], str(lab.folder / "train"))
    (shard,) = (lab.folder / "train").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1])
    data = ELSEWHERE | {"train": str(lab.folder / "train"), "test": "/mnt/of/a/cluster/test"}
    assert "cut off or changed" in lab.run("--dry-run", changes={"data": data | {"test": None}}).error()
    assert (
        "unknown model"
        in lab.run("--dry-run", changes={"data": data | {"train": "/mnt/x"}, "student": {"model": "resnet9"}}).error()
    )


def test_a_set_that_is_not_packed_is_not_fetched(lab: Lab, nothing_left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a dry run went to the network"))
    out = nothing_left({"data": {"source": "cifar100", "root": str(lab.folder / "nowhere"), "limit": None}})
    assert "cifar100 is not packed yet" in not_checked(out)[0]
    assert "train 45000, validation 5000, test 64 images, 100 classes, 32 px" in out


# -- object storage ----------------------------------------------------------------------------------------------------


def test_the_same_from_object_storage(lab: Lab, s3: S3, nothing_left: Any) -> None:
    from kdray.store import Store

    for split in ("train", "test"):
        write_shards(list(digit_samples(split))[:96], s3.uri(f"plan/{split}"), split=split)
    data = {"source": None, "root": None, "train": s3.uri("plan/train"), "test": s3.uri("plan/test")}
    changes = {"data": data, "storage": s3.uri("plan/runs")}
    out = nothing_left(changes)
    assert not_checked(out) == [] and out.count("[to do]") == 2
    assert not Store(s3.uri("plan/runs")).exists()
    done = lab.run(changes=changes)
    assert done.code == 0, done.err
    store = Store(s3.uri("plan/runs"))
    (run,) = store.list("runs")
    record = store.read_json(f"runs/{run}/record.json")
    assert list(record["planned"].values()) == artifacts(out) and record["status"] == "done"
    assert record["uri"] == s3.uri(f"plan/runs/runs/{run}/record.json") and f"record: {record['uri']}" in done.out
    assert "checkpoints" not in store.list(record["planned"]["student"])
    again = lab.run(changes=changes)
    assert again.out.count("(reused)") == 2
    assert "test-secret" not in done.out + again.out + str(record)
    assert Path(lab.folder / "s3:").exists() is False
