"""One request to S3, tried again where that helps, and once more where the credentials were renewed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kdray.store.retry import retrying
from kdray.store.s3_clients import clients, code_of, environment, probe, renew

T = TypeVar("T")
# What a server says to credentials that were valid once.
_STALE = {
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
}


def request(path: str, doing: str, work: Callable[[Any], T], *, probed: bool = True) -> T:
    """`work(client)`; `probed`: after a look whether the bucket is there, which this process takes once.

    Raises:
        FileNotFoundError: there is no object `path` to read.
        StoreError: it was tried again in vain.
        Exception: botocore's, where no further try helps.
    """

    def once() -> T:
        used = clients(environment())
        try:
            return work(used.work)
        except Exception as exc:
            if code_of(exc) not in _STALE or not renew(used):
                raise
        # Not those of the environment as it was: it may have changed while the request was under way.
        return work(clients(environment()).work)

    if probed:
        probe(environment(), path.partition("/")[0])
    try:
        return retrying(once, f"s3://{path}", doing)
    except Exception as exc:
        if doing == "read" and code_of(exc) in ("NoSuchKey", "404", "NotFound"):
            raise FileNotFoundError(2, "No such object", path) from exc
        raise


def split(path: str) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, key = path.partition("/")
    return bucket, key
