"""S3 and whatever speaks it, by boto3: an object is visible only when its upload has completed.

pyarrow's output stream completes an upload when it is closed, also after an exception: it could leave a truncated
object that looks whole. Reading is boto3's too: one request gives a range and the size of the whole, which pyarrow asks
for by a request of its own; the processor time is the same; and credentials are found and renewed in one way.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

from kdray.errors import StoreError
from kdray.store.local import replacing
from kdray.store.part import Part
from kdray.store.retry import retrying
from kdray.store.s3_clients import clients, code_of, environment, probe, renew

T = TypeVar("T")
_PART_BYTES = 64 << 20
# What a server says to credentials that were valid once.
_STALE = {
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
}


class S3Objects:
    """Paths are `bucket/key`; what goes wrong is botocore's exception, `FileNotFoundError` for no such object, or a
    `StoreError` when it was tried again in vain.
    """

    def write(self, path: str, data: bytes | memoryview) -> None:
        bucket, key = _split(path)
        if len(data) > _PART_BYTES:  # one PUT holds 5 GiB at most
            _with(path, "write", lambda s3: s3.upload_fileobj(io.BytesIO(data), bucket, key), parts=True)
        else:
            _with(path, "write", lambda s3: s3.put_object(Bucket=bucket, Key=key, Body=bytes(data)))

    def write_file(self, path: str, source: str) -> None:
        bucket, key = _split(path)

        def upload(s3: Any) -> None:
            with open(source, "rb") as file:
                s3.upload_fileobj(file, bucket, key)

        _with(path, "write", upload, parts=True)

    def read(self, path: str) -> bytes:
        bucket, key = _split(path)
        return _with(path, "read", lambda s3: s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    def read_range(self, path: str, start: int, length: int) -> Part:
        bucket, key = _split(path)
        span = f"bytes={start}-{start + length - 1}" if start >= 0 else f"bytes={start}"

        def get(s3: Any) -> Part:
            try:
                answer = s3.get_object(Bucket=bucket, Key=key, Range=span)
            except Exception as exc:
                if code_of(exc) == "InvalidRange":  # the object ends before it begins
                    return Part(b"", None)
                raise
            data, version = answer["Body"].read(), answer.get("ETag")
            if answer["ResponseMetadata"]["HTTPStatusCode"] != 206:  # the server knows no ranges and sent all
                first = start if start >= 0 else max(0, len(data) + start)
                return Part(data[first : first + length], len(data), version)
            first, end, total = _content_range(answer.get("ContentRange", ""))
            if total is None and first >= 0:  # "*": the server has not said it
                total = int(s3.head_object(Bucket=bucket, Key=key)["ContentLength"])
            wanted = start if start >= 0 else max(0, (total or 0) + start)
            if total is None or (first, end) != (wanted, min(wanted + length, total)) or len(data) != end - first:
                said = answer.get("ContentRange") or "no Content-Range"
                fix = "Something between (proxy, cache) or the server breaks range requests: go round it or correct it"
                raise StoreError(f"asked for {span}, the answer is {said}", where=f"s3://{path}", fix=fix)
            return Part(data, total, version)

        # Not probed: what reads ranges has listed the bucket before, or another process has for it.
        return _with(path, "read", get, probed=False)

    def read_file(self, path: str, target: str) -> None:
        bucket, key = _split(path)

        def download(s3: Any) -> None:
            with replacing(os.path.abspath(target)) as file:
                s3.download_fileobj(bucket, key, file)

        _with(path, "read", download, parts=True)

    def exists(self, path: str) -> bool:
        bucket, key = _split(path)
        if key:
            try:
                _with(path, "read", lambda s3: s3.head_object(Bucket=bucket, Key=key))
            except FileNotFoundError:
                pass
            else:
                return True
        found = _with(path, "list", lambda s3: s3.list_objects_v2(Bucket=bucket, Prefix=_folder(key), MaxKeys=1))
        return bool(found.get("Contents")) or not key

    def list(self, path: str) -> list[str]:
        bucket, key = _split(path)
        prefix = _folder(key)

        def pages(s3: Any) -> set[str]:
            names: set[str] = set()
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
                names.update(entry["Key"][len(prefix) :] for entry in page.get("Contents", ()))
                names.update(entry["Prefix"][len(prefix) : -1] for entry in page.get("CommonPrefixes", ()))
            return names

        return sorted(_with(path, "list", pages) - {""})

    def delete(self, path: str) -> None:
        bucket, key = _split(path)
        if not key:
            raise PermissionError(1, "a whole bucket is never deleted", path)

        def remove(s3: Any) -> None:
            s3.delete_object(Bucket=bucket, Key=key)
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=_folder(key)):
                keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
                if keys:
                    left = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True}).get("Errors", ())
                    if left:
                        from botocore.exceptions import ClientError

                        raise ClientError({"Error": left[0]}, "DeleteObjects")

        _with(path, "delete", remove)


def _with(path: str, doing: str, work: Callable[[Any], T], *, parts: bool = False, probed: bool = True) -> T:
    """`work(client)`, tried again where that helps, and once more where the credentials were renewed meanwhile."""
    bucket, uri = path.partition("/")[0], f"s3://{path}"

    if probed:
        probe(environment(), bucket)

    def once() -> T:
        settings = environment()
        used = clients(settings)
        try:
            return work(used.parts if parts else used.work)
        except Exception as exc:
            if code_of(exc) not in _STALE or not renew(used):
                raise
        used = clients(settings)
        return work(used.parts if parts else used.work)

    try:
        return retrying(once, uri, doing)
    except Exception as exc:
        if doing == "read" and code_of(exc) in ("NoSuchKey", "404", "NotFound"):
            raise FileNotFoundError(2, "No such object", path) from exc
        raise


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key


def _content_range(said: str) -> tuple[int, int, int | None]:
    """(first, end, total) of "bytes first-last/total"; total None for "*", first -1 where it does not read."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said.strip())
    if match is None:
        return -1, -1, None
    return int(match[1]), int(match[2]) + 1, None if match[3] == "*" else int(match[3])


def _folder(key: str) -> str:
    return f"{key}/" if key else ""
