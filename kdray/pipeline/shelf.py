"""What a run store holds: artifacts in their generations, and the runs that say which of them is theirs.

An artifact's folder is `artifacts/STAGE-DIGEST`, with `.2`, `.3`, ... for those started over by `--fresh`. A run's
record names the folders that it uses before anything runs; so the plain command goes on with what a killed `--fresh`
began, and nobody else's experiment changes its teacher because of it.
"""

from __future__ import annotations

from typing import Any

from kdray.errors import ConfigError, StoreError
from kdray.store import Store

ARTIFACTS, RUNS = "artifacts", "runs"


class Shelf:
    """Artifacts and runs of `store`, listed once. With `lenient`, a store that cannot be read counts as empty.

    `problem` is then the reason.

    Raises:
        StoreError: the store cannot be read.
    """

    def __init__(self, store: Store, lenient: bool = False) -> None:
        self.store = store
        self.problem: StoreError | None = None
        self._artifacts: list[str] = []
        self._runs: list[str] = []
        try:
            self._artifacts, self._runs = store.list(ARTIFACTS), store.list(RUNS)
        except StoreError as error:
            if not lenient:
                raise
            self.problem = error

    def folder(self, stem: str, planned: str | None, fresh: bool) -> str:
        """The generation of the artifact `stem` to use.

        With `fresh` the next one; else the one that this run `planned` before; else the newest finished one, which
        another experiment left, or the newest begun one.
        """
        there = [number for entry in self._artifacts if (number := generation(entry, stem))]
        if fresh:
            number = max(there, default=0) + 1
        elif planned is not None and generation(planned.rpartition("/")[2], stem):
            return planned
        else:
            done = [number for number in there if self.done(_numbered(f"{ARTIFACTS}/{stem}", number))]
            number = max(done or there or [1])
        return _numbered(f"{ARTIFACTS}/{stem}", number)

    def done(self, folder: str) -> bool:
        """Whether the artifact in `folder` is whole."""
        return self._holds(folder) and self.store.exists(f"{folder}/record.json")

    def checkpoint(self, folder: str) -> str | None:
        """Name of the newest checkpoint in `folder`, None when there is none."""
        names = self.store.list(f"{folder}/checkpoints") if self._holds(folder) else []
        return max((name for name in names if name.endswith(".pt")), default=None)

    def _holds(self, folder: str) -> bool:
        return folder.rpartition("/")[2] in self._artifacts

    def run_id(self, name: str, digest: str, fresh: bool) -> str:
        """The newest run `name-digest`, or with `fresh` the one after it."""
        stem = f"{name}-{digest[:8]}"
        newest = max((generation(entry, stem) for entry in self._runs), default=0)
        return _numbered(stem, newest + 1 if fresh else max(newest, 1))

    def record(self, run_id: str) -> dict[str, Any] | None:
        """The record of run `run_id`, None when there is none.

        Raises:
            StoreError: a record that is damaged.
        """
        if run_id not in self._runs or not self.store.exists(f"{RUNS}/{run_id}/record.json"):
            return None
        return self.store.read_json(f"{RUNS}/{run_id}/record.json")

    def check_run_id(self, run_id: str, digest: str, fresh: bool) -> None:
        """Refuse a `--run-id` whose record would be written over.

        Raises:
            ConfigError: another experiment has it, or `--fresh` starts a new run under an old one's name.
        """
        record = self.record(run_id)
        if record is None:
            return
        if record["digest"] != digest:
            problem = f"{run_id!r} is the run of another experiment (digest {record['digest'][:8]}, not {digest[:8]})"
            raise ConfigError(problem, where="--run-id", fix="Give an id that is not taken, or none")
        if fresh:
            problem = f"{run_id!r} is there already, and --fresh starts beside what is there"
            raise ConfigError(problem, where="--run-id", fix="Give an id that is not taken, or none")


def generation(entry: str, stem: str) -> int:
    """1 for `stem` itself, n for `stem.n`, 0 for anything else."""
    entry = entry.rstrip("/")
    if entry == stem:
        return 1
    head, _, tail = entry.rpartition(".")
    return int(tail) if head == stem and tail.isdecimal() else 0


def _numbered(stem: str, number: int) -> str:
    return stem + (f".{number}" if number > 1 else "")
