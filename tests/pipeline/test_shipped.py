"""The experiments that come with kdray: short, with a header that says what to expect, and planned here, every variant.

Those without variants are also run, in their small version and in one process; tests/cluster runs all of them on Ray.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import kdray
from kdray.experiment import load_comparison
from kdray.models.registry import find
from tests.tiny import command

FOLDER = Path(kdray.__file__).parents[1] / "experiments"
ALL = sorted(FOLDER.rglob("*.yaml"))
WHOLE = [path for path in ALL if path.parent.name != "base"]
SINGLE = [path for path in WHOLE if not load_comparison(path).has_variants]
SEARCHES = [path for path in SINGLE if load_comparison(path).first.search is not None]
CIFAR_PAIRS = {
    "wrn_40_2-wrn_16_2",
    "wrn_40_2-wrn_40_1",
    "resnet56-resnet20",
    "resnet110-resnet20",
    "resnet110-resnet32",
    "resnet32x4-resnet8x4",
    "vgg13-vgg8",
    "vgg13-mobilenetv2",
    "resnet50-mobilenetv2",
    "resnet50-vgg8",
    "resnet32x4-shufflenetv1",
    "resnet32x4-shufflenetv2",
    "wrn_40_2-shufflenetv1",
}


def named(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(""))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shipped")


def test_there_are_some() -> None:
    names = {named(path) for path in WHOLE}
    assert {"quickstart", "cifar100_clmkd", "imagenet_clmkd", "cifar100_intra_class", "cifar100_matrix"} <= names
    assert {f"cifar100/{pair}" for pair in CIFAR_PAIRS} <= names
    assert {"imagenet/resnet34-resnet18", "imagenet/resnet50-mobilenetv1"} <= names


@pytest.mark.parametrize("path", ALL, ids=named)
def test_a_file_is_short_and_says_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    header = "\n".join(line for line in lines[: next(n for n, line in enumerate(lines) if line[:1] != "#")])
    assert re.search(r"\b(19|20)\d\d\b|et al\.|Recipe ours", header), "no paper"
    if path in WHOLE:
        assert f"python -m kdray.run experiments/{path.relative_to(FOLDER)}" in header
        assert re.search(r"Hardware: |CPU cores?", header), "no hardware"
        assert re.search(r"minutes|hours|[Tt]imes?\b", header), "no time"
        assert load_comparison(path).name == path.stem


@pytest.mark.parametrize("pair", sorted(CIFAR_PAIRS))
def test_a_pair_is_what_its_name_says(pair: str) -> None:
    experiments = load_comparison(FOLDER / "cifar100" / f"{pair}.yaml").experiments
    teacher, _, student = pair.partition("-")
    lr = 0.01 if re.search("mobile|shuffle", student) else 0.05
    for name, experiment in experiments.items():
        assert experiment.teacher is not None and experiment.student is not None
        assert experiment.teacher.model == {"resnet50": "resnet50_cifar"}.get(teacher, teacher)
        assert experiment.student.model == student and find(student) is not None
        # One teacher for all students, whatever views and rates these have.
        train, data = experiment.teacher.train, experiment.teacher_data
        assert train is not None and (train.optimizer.lr, train.epochs, train.batch) == (0.05, 240, 64)
        assert (data.views, data.augment) == (1, ["pad_crop", "flip"])
        rate = {"mld": min(lr, 0.025)}.get(name, lr)
        assert experiment.train.optimizer.lr == rate and experiment.train.schedule.milestones == [150, 180, 210]


def test_weights_that_were_published_for_a_pair() -> None:
    def option(pair: str, variant: str, objective: str, key: str) -> object:
        experiment = load_comparison(FOLDER / "cifar100" / f"{pair}.yaml").experiments[variant]
        return experiment.objectives[objective][key]

    assert option("resnet56-resnet20", "review", "review", "weight") == 0.6
    assert option("resnet110-resnet32", "review", "review", "weight") == 1
    assert option("resnet32x4-shufflenetv2", "review", "review", "weight") == 8
    assert option("vgg13-vgg8", "review", "review", "weight") == 5
    betas = {"resnet56-resnet20": 2, "wrn_40_2-wrn_40_1": 6, "vgg13-mobilenetv2": 6, "resnet32x4-resnet8x4": 8}
    assert {pair: option(pair, "dkd", "dkd", "beta") for pair in betas} == betas
    assert option("vgg13-vgg8", "kd_ls", "kd", "temperature") == 3
    assert option("resnet50-mobilenetv2", "kd_ls", "kd", "weight") == 1
    assert option("wrn_40_2-wrn_16_2", "kd_ls", "kd", "weight") == 9


@pytest.mark.parametrize("path", WHOLE, ids=named)
def test_a_dry_run_plans_it(path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant, to a step of its objectives on outputs of its networks' shapes."""
    monkeypatch.chdir(workplace)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    before = sorted(workplace.rglob("*"))
    done = command(path, "--dry-run")
    assert (done.code, done.err.count("kdray:")) == (0, 0), done.err
    comparison = load_comparison(path)
    for name, experiment in comparison.experiments.items():
        assert not name or f"variant {name}: " in done.out
        for role in (experiment.teacher, experiment.student):
            assert role is None or f": {role.model}  [" in done.out
    assert sorted(workplace.rglob("*")) == before


@pytest.mark.parametrize("path", SEARCHES, ids=named)
def test_the_small_version_of_a_search_is_planned(path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trials need Ray; that they run is tested with a cluster."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    done = command(path, "--smoke", "--dry-run")
    assert done.code == 0, done.err


@pytest.mark.parametrize("path", [path for path in SINGLE if path not in SEARCHES], ids=named)
def test_a_smoke_run_needs_no_network(path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a smoke run went to the network"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("weights were fetched"))
    done = command(path, "--smoke", "--set", "cluster.workers=0")
    assert done.code == 0, done.err
    experiment = load_comparison(path).first
    if experiment.student is not None:
        assert f"student distilled: {experiment.student.model}" in done.out
    assert f"record: {workplace}/runs/smoke/runs/{path.stem}-" in done.out


@pytest.mark.parametrize("name", ["cifar100/resnet50-mobilenetv2", "imagenet/resnet50-mobilenetv1"])
def test_the_small_version_of_every_variant_is_planned(
    name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FOLDER / f"{name}.yaml"
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    done = command(path, "--dry-run", "--smoke", "--set", "cluster.workers=0")
    assert done.code == 0, done.err
    assert all(f"variant {name}: " in done.out for name in load_comparison(path).experiments)
