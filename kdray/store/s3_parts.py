"""Large objects in parts, several at once. Each part is a request of its own, so one that fails is tried again alone.

boto3's own transfers try again inside, each layer in its way: a part failed 64 times before an upload was given up.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

from kdray.errors import StoreError
from kdray.store.s3_clients import clients, code_of, environment
from kdray.store.s3_range import read_range
from kdray.store.s3_request import request, split

PART_BYTES = 8 << 20
MOST_PARTS = 10_000  # of one upload, S3 says
AT_ONCE = 8
TIMES = 3

Read = Callable[[int, int], bytes]  # the bytes from the first to before the end


def upload(path: str, read: Read, size: int) -> None:
    """Write `size` bytes, which `read` gives, as one object: visible when all are there.

    Completing an upload may succeed and its answer be lost; the next try is told that there is no such upload. Whether
    it was completed or ended by somebody else is not to be seen, so all is sent once more.
    """
    if size <= PART_BYTES:
        bucket, key = split(path)
        data = read(0, size)
        request(path, "write", lambda s3: s3.put_object(Bucket=bucket, Key=key, Body=data))
        return
    try:
        _upload(path, read, size)
    except Exception as exc:
        if code_of(exc) != "NoSuchUpload":
            raise
        _upload(path, read, size)


def _upload(path: str, read: Read, size: int) -> None:
    bucket, key = split(path)
    step = max(PART_BYTES, -(-size // MOST_PARTS))

    def begin(s3: Any) -> dict[str, str]:
        # As boto3's transfers: what AWS expects of each part must be said when the upload begins.
        checked = s3.meta.config.request_checksum_calculation == "when_supported"
        extra = {"ChecksumAlgorithm": "CRC32"} if checked else {}
        answer = s3.create_multipart_upload(Bucket=bucket, Key=key, **extra)
        return {"UploadId": answer["UploadId"], **extra}

    upload = request(path, "write", begin)
    this = {"Bucket": bucket, "Key": key, "UploadId": upload["UploadId"]}

    def send(number: int) -> dict[str, Any]:
        first = (number - 1) * step
        data = read(first, min(first + step, size))
        answer = request(
            path, "write", lambda s3: s3.upload_part(Bucket=bucket, Key=key, PartNumber=number, Body=data, **upload)
        )
        sums = {name: answer[name] for name in ("ETag", "ChecksumCRC32") if name in answer}
        return {"PartNumber": number, **sums}

    try:
        with ThreadPoolExecutor(AT_ONCE, "kdray-upload") as pool:
            parts = list(pool.map(send, range(1, -(-size // step) + 1)))
        request(path, "write", lambda s3: s3.complete_multipart_upload(**this, MultipartUpload={"Parts": parts}))
    except BaseException:
        # Parts that are left cost money. One try: who waits for the error has waited for the others.
        with contextlib.suppress(Exception):
            clients(environment()).work.abort_multipart_upload(**this)
        raise


def download(path: str, file: BinaryIO) -> None:
    """Write the object into `file`, which is empty: one version of it, though it be replaced meanwhile."""
    for _ in range(TIMES):
        file.truncate(0)
        if _download(path, file.fileno()):
            return
    raise StoreError("is replaced again and again while it is read", where=f"s3://{path}", fix="Try again later")


def _download(path: str, descriptor: int) -> bool:
    head = read_range(path, 0, PART_BYTES, probed=True)
    _write(descriptor, head.data, 0)
    size = head.size or 0

    def fetch(first: int) -> bool:
        part = read_range(path, first, PART_BYTES)
        if (part.size, part.version) != (head.size, head.version):
            return False
        _write(descriptor, part.data, first)
        return True

    if size <= PART_BYTES:
        return True
    with ThreadPoolExecutor(AT_ONCE, "kdray-download") as pool:
        return all(pool.map(fetch, range(PART_BYTES, size, PART_BYTES)))


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while len(view):
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
