"""A tiny experiment on handwritten digits, and the command run in this process: what the tests of the command share."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdray.experiment.merge import merge
from kdray.experiment.yaml_text import dump
from kdray.run import main

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 64, "test_limit": 64, "augment": ["pad_crop"]},
    "teacher": {"model": "resnet8", "params": {"width": 0.25}},
    "student": {"model": "resnet8", "params": {"width": 0.125}},
    "objectives": {"ce": {}, "kd": {"temperature": 4}},
    "train": {"epochs": 1, "batch": 32, "optimizer": {"type": "sgd", "lr": 0.05}, "precision": "fp32"},
    "cluster": {"workers": 0},
}


@dataclass(frozen=True)
class Done:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str

    def error(self, code: int = 2) -> str:
        """The command's one line of error."""
        assert self.code == code, self.out + self.err
        assert self.err.startswith("kdray: ") and self.err.endswith("\n"), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("kdray: ").rstrip("\n")


def command(*arguments: str | Path) -> Done:
    """Run `kdray ARGUMENTS` in this process, its output caught."""
    out, err, path = io.StringIO(), io.StringIO(), list(sys.path)
    torch.set_num_threads(1)  # these networks are too small to share between threads
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
    finally:
        sys.path[:] = path
    return Done(code, out.getvalue(), err.getvalue())


class Lab:
    """A folder with experiments and the store that they share."""

    def __init__(self, folder: Path, digits: Path) -> None:
        self.folder = folder
        self.digits = digits
        self.store = folder / "store"

    def write(self, changes: dict[str, Any] | None = None, file: str = "tiny.yaml") -> Path:
        """Write TINY with `changes` merged over it; None takes a key away."""
        places = {"data": {"root": str(self.digits)}, "storage": str(self.store)}
        tree = _without_none(merge(merge(TINY, places), changes or {}))
        path = self.folder / file
        path.write_text(dump(tree))
        return path

    def run(self, *arguments: str, changes: dict[str, Any] | None = None) -> Done:
        """Run TINY with `changes`."""
        return command(self.write(changes), *arguments)

    def done(self, *arguments: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run TINY with `changes` to its good end and return its record."""
        done = self.run(*arguments, changes=changes)
        assert done.code == 0, done.out + done.err
        return self.record(done)

    def record(self, done: Done) -> dict[str, Any]:
        """The record that the command says it left."""
        line = next(line for line in done.out.splitlines() if line.startswith("record: "))
        return json.loads(Path(line.split()[1]).read_text())

    def artifacts(self) -> list[str]:
        """Names of the artifacts' folders."""
        return sorted(os.listdir(self.store / "artifacts")) if (self.store / "artifacts").exists() else []


def _without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_none(value) for key, value in tree.items() if value is not None}
    return tree


def tree_of(folder: Path) -> dict[str, bytes | None]:
    """Every file below `folder` with its bytes, every folder with None."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() else None
    return found
