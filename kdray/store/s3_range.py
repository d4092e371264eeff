"""A range of an object, by one request, and whether the answer is what was asked for."""

from __future__ import annotations

import re
from typing import Any

from kdray.errors import StoreError
from kdray.store.part import Part
from kdray.store.s3_clients import code_of
from kdray.store.s3_request import request, split


def read_range(path: str, start: int, length: int, *, probed: bool = False) -> Part:
    """As `kdray.store.read_range`. Not probed: who reads ranges has listed the bucket, or another process has."""
    bucket, key = split(path)
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

    return request(path, "read", get, probed=probed)


def _content_range(said: str) -> tuple[int, int, int | None]:
    """(first, end, total) of "bytes first-last/total"; total None for "*", first -1 where it does not read."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said.strip())
    if match is None:
        return -1, -1, None
    return int(match[1]), int(match[2]) + 1, None if match[3] == "*" else int(match[3])
