"""`kdray data show` run in this process, and its sheet before it is drawn."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kdray.cli import main
from kdray.data.layout import Manifest
from kdray.data.reader import read_rows
from kdray.data.shards import Sample, write_shards
from kdray.report.data_cells import make_sheet
from kdray.report.data_subject import Subject
from tests.tiny import Done


def show(*arguments: str | Path) -> Done:
    """Run `kdray data show ARGUMENTS` in this process."""
    out, err, path = io.StringIO(), io.StringIO(), list(sys.path)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["data", "show", *map(str, arguments)])
    finally:
        sys.path[:] = path
    return Done(code, out.getvalue(), err.getvalue())


def shown(*arguments: str | Path) -> str:
    done = show(*arguments)
    assert done.code == 0 and not done.err, done.err
    return done.out


def sheet_of(subject: Subject, rows: Iterable[int], epoch: int) -> Any:
    return make_sheet(subject, read_rows(subject.manifest, np.array(list(rows))), {}, epoch)


def write(folder: Path, images: list[tuple[bytes, int, str]], names: list[str]) -> Manifest:
    return write_shards([Sample(*image) for image in images], str(folder), class_names=names)
