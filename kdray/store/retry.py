"""Trying again: storage that fails now often answers a moment later.

All requests to object stores that kdray makes itself go through `retrying`, so that they are tried equally often, wait
equally long and say so in the same words.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from kdray.errors import StoreError
from kdray.store.explain import explain

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long to go on.

    The pause before try n + 1 is drawn evenly from half to all of min(`longest_s`, `first_s` * 2^(n - 1)): many readers
    that failed together must not come back together. With the defaults that is 40 s of pauses; no try begins after
    `total_s`, so that requests which hang for their whole timeout do not add up to an hour.
    """

    tries: int = 8
    first_s: float = 0.5
    longest_s: float = 20.0
    total_s: float = 180.0

    def pause(self, tried: int) -> float:
        return min(self.longest_s, self.first_s * 2 ** (tried - 1)) * _draws.uniform(0.5, 1.0)


PATIENCE = Patience()
_LOG_EVERY_S = 3.0
_draws = random.Random()  # ours: a user's seeded draws must not depend on the network
_last_said = [-_LOG_EVERY_S, 0.0]  # when, and how many retries have gone unsaid since
_saying = threading.Lock()

# Codes of S3 that pass though they come with a status below 500, or with none.
_PASSING = {
    "SlowDown",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "RequestThrottled",
    "TooManyRequests",
    "OperationAborted",
    "IncompleteBody",
    "429",
    "InternalError",  # of single objects, in an answer that deletes many
    "ServiceUnavailable",
}
_BROKEN = {
    "EndpointConnectionError": "no connection",
    "ConnectTimeoutError": "no connection in time",
    "ReadTimeoutError": "no answer in time",
    "ConnectionClosedError": "connection closed",
    "ResponseStreamingError": "the answer broke off",
    "IncompleteReadError": "the answer broke off",
    "ProtocolError": "the answer broke off",
    "FlexibleChecksumError": "the answer does not fit its checksum",
    "HTTPClientError": "connection lost",
    "ProxyConnectionError": "no connection to the proxy",
}
# What pyarrow says of Google Cloud Storage after its own retries.
_GOOGLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "ABORTED")


def passing(exc: BaseException) -> str | None:
    """What went wrong, in a few words, where another try may help; None where it will not."""
    response = getattr(exc, "response", None)
    if isinstance(response, dict):
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
        # 501 Not Implemented, 507 Insufficient Storage: the same answer every time
        if code in _PASSING or status == 429 or (status >= 500 and status not in (501, 507)):
            return f"{status} {code}" if code != str(status) else code
        return None
    name = type(exc).__name__
    if name == "SSLError":
        return None if "CERTIFICATE" in str(exc).upper() else "TLS connection lost"
    if name in _BROKEN and type(exc).__module__.split(".")[0] in ("botocore", "urllib3", "s3transfer"):
        return _BROKEN[name]
    if isinstance(exc, ConnectionError | TimeoutError):
        return "connection lost"
    if isinstance(exc, OSError) and "google::cloud::Status(" in str(exc):
        code = str(exc).partition("google::cloud::Status(")[2].partition(":")[0]
        return code if code in _GOOGLE and "OAuth2" not in str(exc) else None
    return None


def retrying(
    work: Callable[[], T],
    uri: str,
    doing: str,
    again: Callable[[BaseException], str | None] = passing,
    patience: Patience | None = None,
) -> T:
    """`work()`, tried again while `again` says that what it raised may pass.

    Raises:
        StoreError: it did not pass; says how often and how long it was tried.
        Exception: what `work` raised, where no further try helps.
    """
    patience = patience or PATIENCE
    start = time.monotonic()
    tried = 0
    while True:
        try:
            return work()
        except Exception as exc:
            what = again(exc)
            if what is None:
                raise
            tried += 1
            pause = patience.pause(tried)
            spent = time.monotonic() - start
            if tried >= patience.tries or spent + pause > patience.total_s:
                told = explain(exc, uri, doing)
                tries = f"{tried} tries in {spent:.0f} s" if tried > 1 else f"tried once, for {spent:.0f} s"
                raise StoreError(f"{told.problem} ({tries})", where=told.where, fix=told.fix) from exc
            _say(uri, what, pause, tried, patience.tries)
        time.sleep(pause)


def _say(uri: str, what: str, pause: float, tried: int, tries: int) -> None:
    """One line, but not one for each of a hundred requests that fail together."""
    with _saying:
        now = time.monotonic()
        if now - _last_said[0] < _LOG_EVERY_S:
            _last_said[1] += 1
            return
        unsaid = int(_last_said[1])
        _last_said[:] = now, 0
    more = f"; {unsaid} more retries since the last line" if unsaid else ""
    log.warning("%s: %s, trying again in %.1f s (%d of %d)%s", uri, what, pause, tried, tries, more)
