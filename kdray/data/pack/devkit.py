"""The development kit of ILSVRC2012: class numbers and names, and the labels of the validation images."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdray.data.pack.folder import Files, in_archive, in_folder
from kdray.data.pack.found import Found
from kdray.data.pack.names import distinct
from kdray.errors import DataError

ARCHIVE, UNPACKED = "ILSVRC2012_devkit_t12.tar.gz", ("ILSVRC2012_devkit_t12", "devkit")
_META, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
_AGAIN = f"Fetch {ARCHIVE} again"


@dataclass(frozen=True)
class Devkit:
    """`wnids` of the classes, sorted, which makes the labels; `names` in words; `truth`: the label of each image."""

    uri: str
    wnids: tuple[str, ...]
    names: tuple[str, ...]
    truth: np.ndarray


def find(found: Found) -> str | None:
    """The URI of the kit in the folder of `found`, packed or unpacked."""
    for name in (ARCHIVE, ARCHIVE.removesuffix(".gz")):
        if name in found.entries:
            return found.at(name)
    for name in UNPACKED:
        if name in found.entries and found.entries[name].folder:
            return found.at(f"{name}/data")
    return None


def read(found: Found, uri: str) -> Devkit:
    """Raises `DataError` when the kit is damaged or says what cannot be."""
    files = in_archive(uri, found.scratch) if uri.endswith((".gz", ".tar")) else in_folder(uri)
    number_of, words = _meta(files)
    wnids = tuple(sorted(number_of))
    label_of = {number: wnids.index(wnid) for wnid, number in number_of.items()}
    return Devkit(uri, wnids, distinct([words[wnid] for wnid in wnids], wnids), _truth(files, label_of))


def _meta(files: Files) -> tuple[dict[str, int], dict[str, str]]:
    """({WNID: ILSVRC2012_ID}, {WNID: words}) of the classes; what has children is a node of the hierarchy and none."""
    from scipy.io import loadmat

    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(files.read(_META)), squeeze_me=True)["synsets"])
        rows = [row for row in synsets if int(_plain(row["num_children"])) == 0]
        ids = {str(_plain(row["WNID"])): int(_plain(row["ILSVRC2012_ID"])) for row in rows}
        words = {str(_plain(row["WNID"])): str(_plain(row["words"])) for row in rows}
    except DataError:
        raise
    except Exception as exc:  # scipy has no error of its own: a damaged file raises whatever its reader meets
        if isinstance(exc, MemoryError):
            raise
        raise DataError(f"{_META} does not read: {_short(exc)}", where=files.uri, fix=_AGAIN) from exc
    if len(ids) < len(rows) or len(set(ids.values())) < len(rows) or not rows:
        raise DataError(f"{_META} names a class twice, or none", where=files.uri, fix=_AGAIN)
    return ids, words


def _truth(files: Files, label_of: dict[int, int]) -> np.ndarray:
    labels = []
    for number, line in enumerate(files.lines(_TRUTH), 1):
        if not line.isdecimal() or int(line) not in label_of:
            problem = f"line {number} of {_TRUTH} says {line[:20]!r}, which is no class of {_META}"
            raise DataError(problem, where=files.uri, fix=_AGAIN)
        labels.append(label_of[int(line)])
    return np.array(labels, np.int64)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) else value


def _short(exc: Exception) -> str:
    return " ".join(f"{type(exc).__name__} {exc}".split())[:120]
