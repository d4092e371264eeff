"""Trials as processes of one Ray node: one makes what all of them read, and nothing that dies takes another along."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdray.data import ray_shared
from kdray.data.ray_shared import RaySharing, start_sharing
from kdray.data.shared import install, keep
from kdray.errors import DataError

from .feeds import CIFAR, IMAGENET, evaluation, feed
from .ray_here import small_ray

MIB = 1024**2
STORE = 160 * MIB
LARGE = 40 * MIB


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with small_ray(STORE) as (ray, _):
        yield ray


@pytest.fixture
def sharing(cluster) -> Iterator[RaySharing]:
    sharing = start_sharing()
    yield sharing
    sharing.close()


@dataclass(frozen=True)
class Bytes:
    """Something to share."""

    values: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


def make(folder: Path, nbytes: int, value: int = 1) -> Bytes:
    """`value`, `nbytes` times. Leaves a file for each process that makes it."""
    (folder / f"made-{os.getpid()}").touch()
    return Bytes(np.full(nbytes, value, np.uint8))


def make_after_a_death(folder: Path) -> Bytes:
    """As `make`, but the first process that tries waits to be killed."""
    first = not list(folder.iterdir())
    made = make(folder, 1000)
    while first:
        time.sleep(0.05)
    return made


def fail(folder: Path) -> Bytes:
    """Does not make anything."""
    (folder / f"made-{os.getpid()}").touch()
    raise DataError("does not read", where="shard")


def make_only_here(folder: Path, process: int) -> Bytes:
    """As `make`; in another process it takes for ever."""
    while os.getpid() != process:
        time.sleep(0.05)
    return make(folder, 1000)


def ask(sharing: RaySharing, key: str, how: partial, expected: float = 1.0) -> np.ndarray:
    with install(sharing):
        return keep(key, how, lambda: expected).values


class Trial:
    """A trial's process."""

    def ask(self, *given: Any) -> int:
        self.values = ask(*given)
        return int(self.values.sum(dtype=np.int64))

    def own(self, how: partial) -> int:
        self.values = how().values
        return int(self.values.sum(dtype=np.int64))

    def digest(self, sharing: RaySharing | None, which: Any, manifest: Any, *given: Any) -> str:
        with install(sharing):
            fed = which(manifest, "resident", *given)
        digest = hashlib.sha256()
        for batch in fed.epoch(2) if hasattr(fed, "epoch") else fed:
            for part in (batch.images.permute(0, 2, 3, 1), batch.labels, batch.index, batch.ids):
                digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module")
def trials(cluster) -> list[Any]:
    """Two processes, for trials one after the other."""
    return [cluster.remote(Trial).options(num_cpus=0).remote() for _ in range(2)]


def own_bytes(process: int) -> int:
    """Memory that no other process has."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    said = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return 1024 * (said["Private_Clean"] + said["Private_Dirty"])


@pytest.mark.parametrize(
    ("which", "kind", "given"),
    [(feed, "small", [CIFAR]), (feed, "photos", [IMAGENET]), (evaluation, "small", [])],
    ids=["train", "photographs", "evaluation"],
)
def test_processes_get_the_bits_that_they_would_make(request, cluster, sharing, trials, which, kind, given) -> None:
    manifest = request.getfixturevalue(kind)
    plain = Trial().digest(None, which, manifest, *given)
    assert cluster.get([trial.digest.remote(sharing, which, manifest, *given) for trial in trials]) == [plain] * 2
    assert len(cluster.get(sharing._holder.held.remote())) == 1


def test_processes_that_share_hold_one_copy(cluster, sharing, trials, tmp_path) -> None:
    how = partial(make, tmp_path, LARGE)
    pids = cluster.get([trial.pid.remote() for trial in trials])
    small = partial(make, tmp_path, 10)
    cluster.get([trial.ask.remote(sharing, "small", small) for trial in trials])  # what sharing itself needs
    before = [own_bytes(pid) for pid in pids]
    assert cluster.get([trial.ask.remote(sharing, "large", how, LARGE) for trial in trials]) == [LARGE] * 2
    assert all(own_bytes(pid) - was < LARGE / 4 for pid, was in zip(pids, before, strict=True))
    assert not {int(path.name.removeprefix("made-")) for path in tmp_path.iterdir()} & {*pids, os.getpid()}
    assert cluster.get([trial.own.remote(how) for trial in trials]) == [LARGE] * 2
    assert all(own_bytes(pid) - was > LARGE * 3 / 4 for pid, was in zip(pids, before, strict=True))


def test_it_is_made_once_and_outlives_the_trial_that_asked_first(cluster, sharing, trials, tmp_path) -> None:
    how = partial(make, tmp_path, MIB)
    first = cluster.remote(Trial).options(num_cpus=0).remote()
    assert cluster.get(first.ask.remote(sharing, "key", how)) == MIB
    cluster.kill(first)
    assert cluster.get(trials[1].ask.remote(sharing, "key", how)) == MIB
    values = ask(sharing, "key", how)
    assert values.all() and not values.flags.writeable
    assert len(list(tmp_path.iterdir())) == 1


def test_a_maker_that_is_killed_holds_up_nobody(cluster, sharing, trials, tmp_path) -> None:
    how = partial(make_after_a_death, tmp_path)
    asked = [trial.ask.remote(sharing, "key", how) for trial in trials]
    deadline = time.monotonic() + 120
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    (maker,) = tmp_path.iterdir()
    os.kill(int(maker.name.removeprefix("made-")), signal.SIGKILL)
    assert cluster.get(asked, timeout=120) == [1000] * 2
    assert len(list(tmp_path.iterdir())) == 2  # another process made it, for both


@pytest.mark.parametrize("expected", [STORE, 1.0], ids=["known before", "found out"])
def test_what_does_not_fit_is_made_in_each_process_and_said_once(sharing, tmp_path, caplog, expected) -> None:
    how = partial(make, tmp_path, STORE // 2)
    with caplog.at_level(logging.INFO, "kdray.data.ray_shared"):
        values = ask(sharing, "key", how, expected)
    assert values.flags.writeable and len(values) == STORE // 2
    assert (tmp_path / f"made-{os.getpid()}").exists()
    assert caplog.text.count("is not shared between trials: more than 40 % of Ray's object store") == 1
    assert ask(sharing, "key", how, expected) is values  # the next trial of this process


def test_what_nobody_uses_gives_way_and_what_is_used_does_not(cluster, sharing, trials, tmp_path) -> None:
    def held() -> dict[str, float]:
        return cluster.get(sharing._holder.held.remote())

    with install(sharing):  # a trial that is not over
        keep("used", partial(make, tmp_path, LARGE), lambda: LARGE)
        cluster.get(trials[0].ask.remote(sharing, "done with", partial(make, tmp_path, MIB), MIB))
        assert held() == {"used": LARGE, "done with": MIB}
        cluster.get(trials[0].ask.remote(sharing, "next", partial(make, tmp_path, 24 * MIB), 24 * MIB))
        assert held() == {"used": LARGE, "next": 24 * MIB}
        assert cluster.get(trials[0].ask.remote(sharing, "more", partial(make, tmp_path, LARGE), LARGE)) == LARGE
        assert held().keys() == {"used", "next"}
    assert cluster.get(trials[0].ask.remote(sharing, "more", partial(make, tmp_path, LARGE), LARGE)) == LARGE
    assert "more" in held() and "used" not in held()


def test_without_its_holder_trials_make_their_own_and_say_so_once(cluster, sharing, trials, tmp_path, caplog) -> None:
    how = partial(make, tmp_path, MIB)
    values = ask(sharing, "key", how)
    cluster.kill(sharing._holder)
    assert cluster.get([trial.ask.remote(sharing, "key", how) for trial in trials], timeout=120) == [MIB] * 2
    with caplog.at_level(logging.WARNING, "kdray.data.ray_shared"):
        for key in ("key", "other"):
            assert ask(sharing, key, how).all()
    assert caplog.text.count("data is not shared between trials from now on") == 1
    assert values.all()  # what is read stays


def test_nobody_waits_for_a_holder_that_does_not_answer(cluster, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(ray_shared, "ANSWER_TIMEOUT_S", 0.01)
    sharing = start_sharing()  # it takes longer to start
    assert ask(sharing, "key", partial(make, tmp_path, 10)).flags.writeable
    sharing.close()
    assert caplog.text.count("data is not shared between trials from now on: no answer (GetTimeoutError: ") == 1


def test_nobody_waits_for_ever_for_a_maker(sharing, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(ray_shared, "MAKE_TIMEOUT_S", 0.5)
    assert ask(sharing, "key", partial(make_only_here, tmp_path, os.getpid())).flags.writeable
    assert "data is not shared between trials: GetTimeoutError: " in caplog.text


def test_a_mistake_is_the_trials_own_to_report(cluster, sharing, tmp_path, caplog) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="does not read"):
            ask(sharing, "key", partial(fail, tmp_path))
    assert "data is not shared between trials: DataError: " in caplog.text
    assert not cluster.get(sharing._holder.held.remote())
    assert ask(sharing, "key", partial(make, tmp_path, 10)).all()


def test_a_process_without_ray_starts_none(sharing, tmp_path, monkeypatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert ask(sharing, "key", partial(make, tmp_path, 10)).flags.writeable
