"""S3 and whatever speaks it, by boto3: an object is visible only when its upload has completed.

pyarrow's output stream completes an upload when it is closed, also after an exception: it could leave a truncated
object that looks whole. Reading is boto3's too: one request gives a range and the size of the whole, which pyarrow asks
for by a request of its own; the processor time is the same; and credentials are found and renewed in one way.
"""

from __future__ import annotations

import os
from typing import Any

from kdray.store import s3_parts, s3_range
from kdray.store.local import replacing
from kdray.store.part import Part
from kdray.store.s3_request import request, split

_PUT_BYTES = 64 << 20  # more is sent in parts


class S3Objects:
    """Paths are `bucket/key`; what goes wrong is botocore's exception, `FileNotFoundError` for no such object, or a
    `StoreError` when it was tried again in vain.
    """

    def write(self, path: str, data: bytes | memoryview) -> None:
        bucket, key = split(path)
        if len(data) > _PUT_BYTES:  # one PUT holds 5 GiB at most
            s3_parts.upload(path, lambda first, end: bytes(data[first:end]), len(data))
        else:
            body = bytes(data)
            request(path, "write", lambda s3: s3.put_object(Bucket=bucket, Key=key, Body=body))

    def write_file(self, path: str, source: str) -> None:
        def read(first: int, end: int) -> bytes:
            with open(source, "rb") as file:
                file.seek(first)
                data = file.read(end - first)
            if len(data) != end - first:
                raise OSError(f"{source} became shorter while it was stored")
            return data

        s3_parts.upload(path, read, os.path.getsize(source))

    def read(self, path: str) -> bytes:
        bucket, key = split(path)
        return request(path, "read", lambda s3: s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    def read_range(self, path: str, start: int, length: int) -> Part:
        return s3_range.read_range(path, start, length)

    def read_file(self, path: str, target: str) -> None:
        with replacing(os.path.abspath(target)) as file:
            s3_parts.download(path, file)

    def exists(self, path: str) -> bool:
        bucket, key = split(path)
        if key:
            try:
                request(path, "read", lambda s3: s3.head_object(Bucket=bucket, Key=key))
            except FileNotFoundError:
                pass
            else:
                return True
        found = request(path, "list", lambda s3: s3.list_objects_v2(Bucket=bucket, Prefix=_folder(key), MaxKeys=1))
        return bool(found.get("Contents")) or not key

    def list(self, path: str) -> list[str]:
        bucket, key = split(path)
        prefix = _folder(key)

        def pages(s3: Any) -> set[str]:
            names: set[str] = set()
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
                names.update(entry["Key"][len(prefix) :] for entry in page.get("Contents", ()))
                names.update(entry["Prefix"][len(prefix) : -1] for entry in page.get("CommonPrefixes", ()))
            return names

        return sorted(request(path, "list", pages) - {""})

    def delete(self, path: str) -> None:
        bucket, key = split(path)
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

        request(path, "delete", remove)


def _folder(key: str) -> str:
    return f"{key}/" if key else ""
