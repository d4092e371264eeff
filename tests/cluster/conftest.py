"""A Ray head of our own, and experiments small enough that a run is little more than Ray's start."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kdray.experiment.merge import merge
from kdray.run import main
from tests.cluster.command import BIN, REPOSITORY, Head, Process, ray_head, running

TROUBLE = {"type": "own:Trouble", "weight": 1}
STEPS_PER_EPOCH = 15
LONGEST = ("test_shipped.py", "test_search.py", "test_kill.py")
EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "augment": ["pad_crop", "flip"], "validation": 0.1, "limit": 480},
    "teacher": {"model": "resnet8", "params": {"width": 0.25}, "train": {"epochs": 1}},
    "student": {"model": "resnet8", "params": {"width": 0.25}},
    "objectives": {"ce": {}, "kd": {}, "clmkd.class_guided": {"mode": "memory", "negatives": 64, "dim": 16}},
    "train": {
        "epochs": 3,
        "batch": 32,
        "precision": "fp32",
        "log_every": 4,
        "optimizer": {"type": "sgd", "lr": 0.05},
        "schedule": {"type": "cosine"},
        "checkpoint": {"every_steps": 4, "every_minutes": None},
    },
    "cluster": {"workers": 1, "device": "cpu", "cpus_per_worker": 1},
}

# Two students: batch norm keeps per-worker statistics, group norm lets 2 workers be compared with 1. Between them all
# kinds of state that a checkpoint holds: banks, heads, momentum, statistics.
STUDENTS: dict[str, dict[str, Any]] = {
    "batchnorm": {},
    "groupnorm": {
        "student": {"model": "own:GroupNet", "params": None},
        "objectives": {"clmkd.class_guided": None, "clmkd": {"class_guided": {"gather": "global"}}},
    },
}


@dataclass
class Place:
    """A folder where commands run, and the environment that they run in."""

    folder: Path
    env: dict[str, str]
    data: Path
    count: int = 0

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def write(self, name: str = "experiment", **changes: Any) -> Path:
        """Write the tiny experiment, with `changes` merged in, as NAME.yaml."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merge(merge(EXPERIMENT, {"data": {"root": str(self.data)}}), changes)))
        return path

    def start(self, *arguments: str | Path, env: dict[str, str] | None = None) -> Process:
        """Start `python -m kdray.run ARGUMENTS` here."""
        self.count += 1
        command = [BIN / "python", "-m", "kdray.run", *arguments]
        return Process(command, self.folder, self.env | (env or {}), self.folder / f"command-{self.count}.log")

    def run(self, *arguments: str | Path, code: int = 0, env: dict[str, str] | None = None) -> str:
        """Run `python -m kdray.run ARGUMENTS` here to its end and return what it printed."""
        with running(self.start(*arguments, env=env)) as command:
            ended = command.wait()
            assert ended == code, f"exit code {ended}, not {code}:\n{command.output}"
            return command.output


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of clusters begin first, the longest of them before all: nobody waits for them in the end."""

    def turn(item: pytest.Item) -> int:
        return 0 if item.path.name in LONGEST else 1 if item.path.parent == Path(__file__).parent else 2

    items.sort(key=turn)


@pytest.fixture(scope="package")
def short() -> Iterator[Path]:
    """A folder with a short name: Ray's sockets lie deep in its temp folder, and a socket's path ends at 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="kd-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package")
def clean_env(short: Path) -> dict[str, str]:
    """The environment of a user who has set up nothing, with Ray's tokens, temp files and clocks our own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    (short / "home").mkdir()
    return kept | {
        "HOME": str(short / "home"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",  # the number of threads is part of what makes a sum
        "CUDA_VISIBLE_DEVICES": "",
        "RAY_TMPDIR": str(short),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "60",
    }


@pytest.fixture(scope="package")
def head(clean_env: dict[str, str], short: Path) -> Iterator[Head]:
    """Four CPUs in Ray's books, whatever this machine has: workers are small, and there is one run at a time."""
    with ray_head(clean_env, short, cpus=4, object_store_bytes=200_000_000) as started:
        yield started


@pytest.fixture(scope="package")
def data(short: Path) -> Path:
    """Where the digits are packed to, once."""
    return short / "data"


def make_place(folder: Path, env: dict[str, str], data: Path) -> Place:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parent / "own.py", folder / "own.py")
    return Place(folder, env, data)


@pytest.fixture
def alone(tmp_path: Path, clean_env: dict[str, str], data: Path) -> Place:
    """Commands that start a cluster of their own, or none."""
    return make_place(tmp_path / "alone", clean_env, data)


@pytest.fixture
def joined(tmp_path: Path, clean_env: dict[str, str], data: Path, head: Head) -> Place:
    """Commands that join the shared cluster by RAY_ADDRESS."""
    return make_place(tmp_path / "joined", clean_env | head.joined, data)


class References:
    """Runs that nobody interrupts, each made when it is first asked for: one process, or two Ray workers."""

    def __init__(self, folder: Path, env: dict[str, str], data: Path, request: pytest.FixtureRequest) -> None:
        self.place = make_place(folder, env, data)
        self.request = request
        self.made: dict[str, Path] = {}

    def runs(self, kind: str, workers: int) -> Path:
        """The store of the run of `STUDENTS[kind]`; its teacher is trained by the first of all runs."""
        name = f"{kind}-{workers}"
        if name not in self.made:
            store = self.place.folder / name
            if workers == 1:
                self._here(self.place.write(name, **STUDENTS[kind]), store)
            else:
                self.lend_teacher(kind, store)
                env = self.request.getfixturevalue("head").joined
                experiment = self.place.write(name, **merge(STUDENTS[kind], {"cluster": {"workers": workers}}))
                self.place.run(experiment, "--set", f"storage={store}", env=env)
            self.made[name] = store
        return self.made[name]

    def lend_teacher(self, kind: str, store: Path) -> None:
        """Put the trained teacher into another store, where a run will find it."""
        source = artifact(self.runs(kind, 1), "teacher")
        shutil.copytree(source, store / "artifacts" / source.name)

    def _here(self, experiment: Path, store: Path) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.place.folder)
                patch.syspath_prepend(self.place.folder)
                arguments = [experiment, "--set", "cluster.workers=0", "--set", f"storage={store}"]
                assert main([str(argument) for argument in arguments]) == 0
        finally:
            torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def references(
    tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str], data: Path, request: pytest.FixtureRequest
) -> References:
    return References(tmp_path_factory.mktemp("references"), clean_env, data, request)


def artifact(storage: Path, stage: str = "student") -> Path:
    """The folder of the one finished artifact of `stage`."""
    (folder,) = (storage / "artifacts").glob(f"{stage}-*")
    assert (folder / "record.json").exists()
    return folder


def record(storage: Path, stage: str = "student") -> dict[str, Any]:
    """What a stage says of itself."""
    found: dict[str, Any] = json.loads((artifact(storage, stage) / "record.json").read_text())
    return found


def tensors(storage: Path, stage: str = "student") -> dict[str, torch.Tensor]:
    """All weights that a stage left, by file and name."""
    files = sorted(artifact(storage, stage).glob("*.safetensors"))
    assert files
    return {f"{file.stem}/{key}": value for file in files for key, value in load_file(file).items()}


def assert_last_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """The last weights are equal but for the order of float32 sums: up to 2e-5 was seen on one kind of CPU, 1.3e-4 on
    another. Another image in one place of one batch, in the last epoch but one, changes some by 8e-3.
    """
    last = [name for name in a if name.startswith("last/")]
    assert last and a.keys() == b.keys()
    for name in last:
        torch.testing.assert_close(
            a[name], b[name], rtol=1e-3, atol=5e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names under which two sets of weights differ in any bit."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]
