"""CIFAR-10 and CIFAR-100 from their official archives, read by torchvision, which checks their digests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

from kdray.data.decode import encode_png
from kdray.data.writer import Sample
from kdray.errors import DataError
from kdray.store import Store

PATIENCE_S = 30.0


def has_archive(name: str, root: str) -> bool:
    """Whether the archive of `name`, packed or unpacked, lies in `root`."""
    kind, store = _dataset_class(name), Store(root)
    return store.exists(kind.filename) or store.exists(kind.base_folder)


@contextlib.contextmanager
def unpacked(name: str, root: str) -> Iterator[str]:
    """A local folder that holds the unpacked archive of `name` ("cifar10" or "cifar100").

    It is looked for in `root` (a path or URI) and fetched from its home when it is not there; it is unpacked in a
    folder of its own, so that two processes never meet in one.

    Raises:
        DataError: the archive is damaged, or cannot be fetched.
    """
    kind, store = _dataset_class(name), Store(root)
    local = "://" not in store.uri
    if local and os.path.isdir(os.path.join(store.uri, kind.base_folder)):
        yield store.uri
        return
    with tempfile.TemporaryDirectory(prefix=f"kdray-{name}-") as folder:
        archive = os.path.join(folder, kind.filename)
        if not store.exists(kind.filename):
            _download(kind, folder, store)
            store.put_file(kind.filename, archive)
        elif local:
            archive = os.path.join(store.uri, kind.filename)
        else:
            store.get_file(kind.filename, archive)
        _extract(kind, archive, folder, store)
        yield folder


def cifar_samples(name: str, split: str, folder: str) -> tuple[list[str], Iterator[Sample]]:
    """(class names, samples of `split` in the archive's order, ids their row numbers) of an `unpacked` folder."""
    kind = _dataset_class(name)
    try:
        data = kind(folder, train=split == "train")
    except (RuntimeError, OSError) as exc:
        where = os.path.join(folder, kind.base_folder)
        fix = f"Remove the folder; {kind.filename} beside it is then unpacked or fetched anew"
        raise DataError("is not the official archive's content, or is damaged", where=where, fix=fix) from exc
    samples = (
        Sample(encode_png(image), int(label), row)
        for row, (image, label) in enumerate(zip(data.data, data.targets, strict=True))
    )
    return list(data.classes), samples


def _dataset_class(name: str) -> Any:
    import torchvision.datasets

    return {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]


def _download(kind: Any, folder: str, store: Store) -> None:
    from torchvision.datasets.utils import download_url

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)  # torchvision waits for ever for a server that does not answer
    try:
        download_url(kind.url, folder, kind.filename, kind.tgz_md5)
    except (OSError, RuntimeError) as exc:  # URLError and timeouts are OSError; a wrong digest is RuntimeError
        reason = " ".join(str(exc).split())[:200]
        fix = f"Put {kind.filename} (from {kind.url}) there, or set data.root to the folder that holds it"
        raise DataError(
            f"{kind.filename} is not there and cannot be fetched: {reason}", where=store.uri, fix=fix
        ) from exc
    finally:
        socket.setdefaulttimeout(before)


def _extract(kind: Any, archive: str, folder: str, store: Store) -> None:
    from torchvision.datasets.utils import check_integrity, extract_archive

    if not check_integrity(archive, kind.tgz_md5):
        fix = f"Remove it, and put the one from {kind.url} there"
        raise DataError("is cut off, damaged or not the official archive", where=store.path_uri(kind.filename), fix=fix)
    try:
        extract_archive(archive, folder)
    except OSError as exc:
        shutil.rmtree(os.path.join(folder, kind.base_folder), ignore_errors=True)
        fix = "Free some space there, or set TMPDIR to another folder"
        raise DataError(f"cannot be unpacked into {folder}: {exc.strerror or exc}", where=archive, fix=fix) from exc
