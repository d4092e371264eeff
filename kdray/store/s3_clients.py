"""boto3's clients and pyarrow's file system for the S3 of the present environment."""

from __future__ import annotations

import functools
import logging
import os
import re
import stat
import threading
from dataclasses import dataclass
from typing import Any

from kdray.errors import StoreError
from kdray.store import explain
from kdray.store.retry import PATIENCE, Patience, passing, retrying

log = logging.getLogger(__name__)

# Tried again by `retrying` alone, which covers the answer's body too.
_ONCE: dict[str, Any] = {"retries": {"total_max_attempts": 1}}
_WORK: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 30} | _ONCE
# An endpoint that does not answer must be told within 15 s, a busy one must not break a run of days.
_PROBE: dict[str, Any] = {"connect_timeout": 4, "read_timeout": 6} | _ONCE
FIRST_CONTACT = Patience(total_s=8.0)
_ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "AWS_S3_ADDRESSING_STYLE",
)
CHECKSUMS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
_lock = threading.RLock()


def environment() -> tuple[str | None, ...]:
    """All that decides which clients are right; it may change while the process runs."""
    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.expanduser("~/.aws/credentials"),
        os.environ.get("AWS_CONFIG_FILE") or os.path.expanduser("~/.aws/config"),
    )
    return (str(os.getpid()), *(os.environ.get(name) for name in _ENVIRONMENT), *map(_state, files))


def _state(path: str) -> str | None:
    """What changes when the file is replaced: neither boto3 nor pyarrow reads it again by itself."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return f"{facts.st_mtime_ns} {facts.st_size} {facts.st_ino}" if stat.S_ISREG(facts.st_mode) else None


def filesystem(bucket: str) -> Any:
    """A `pyarrow.fs.S3FileSystem` for reading, at the same endpoint and in the bucket's region."""
    settings = environment()
    return _filesystem(settings, probe(settings, bucket))


def addressing() -> str:
    """How buckets are named at an endpoint that is not AWS: "path" (host/bucket) or "virtual" (bucket.host).

    Raises:
        StoreError: AWS_S3_ADDRESSING_STYLE is something else.
    """
    style = os.environ.get("AWS_S3_ADDRESSING_STYLE", "path").lower()
    if style not in ("path", "virtual"):
        raise StoreError(
            f"{style!r} is no addressing style", where="AWS_S3_ADDRESSING_STYLE", fix="Use path or virtual"
        )
    return style


@dataclass(frozen=True, eq=False)
class Clients:
    """boto3 clients of one session, each with its own timeouts."""

    session: Any
    probe: Any
    work: Any


def clients(settings: tuple[str | None, ...]) -> Clients:
    """The clients of `environment()`, made once however many threads ask."""
    with _lock:
        return _clients(settings)


@functools.lru_cache(maxsize=4)
def _clients(settings: tuple[str | None, ...]) -> Clients:
    """Building a client takes a tenth of a second, and its connections are worth keeping."""
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()
    at = explain.endpoint()
    if at != "AWS" and not re.match(r"https?://[^/]", at):
        fix = "Write http://host:port or https://host"
        raise StoreError(f"{at!r} is no endpoint", where="AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL", fix=fix)
    region = os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
    extra: dict[str, Any] = {"max_pool_connections": 64}
    if at != "AWS":
        # Other servers often know neither the checksums that AWS made the default in 2025 nor buckets as host names.
        extra["s3"] = {"addressing_style": addressing()}
        for name in CHECKSUMS:
            extra[name.removeprefix("AWS_").lower()] = os.environ.get(name, "when_required").lower()
    made = [
        session.client(
            "s3",
            endpoint_url=None if at == "AWS" else at,
            region_name=region,
            config=Config(**config, **extra),
        )
        for config in (_PROBE, _WORK)
    ]
    return Clients(session, *made)


def renew(used: Clients) -> bool:
    """Whether other credentials are to be had than those of `used`; they are taken from now on. What expires by a date
    that is known (roles, processes, SSO) boto3 renews by itself, in time; variables and files are watched.
    """
    import boto3
    from botocore.exceptions import BotoCoreError

    with _lock:
        if _clients(environment()) is not used:  # another thread has renewed them
            return True
        try:
            old, new = (each.get_credentials() for each in (used.session, boto3.session.Session()))
            if new is None or (old is not None and old.get_frozen_credentials() == new.get_frozen_credentials()):
                return False
        except BotoCoreError:
            return False
        log.info("credentials were renewed; going on with the new ones")
        _clients.cache_clear()
        _filesystem.cache_clear()
        return True


def probe(settings: tuple[str | None, ...], bucket: str) -> str:
    """Ask once in this process whether the bucket is there, and return its region.

    A server that has never answered this process may be the wrong one, which must be told soon. One that answers with
    errors, or breaks connections, is there: it is waited for as in any other request.
    """
    region = _regions.get((explain.endpoint(), bucket))
    return _probe(settings, bucket) if region is None else region


_regions: dict[tuple[str, str], str] = {}  # by endpoint and bucket, of those reached: other keys change nothing in it
_answered: set[str] = set()  # endpoints
_SILENT = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyConnectionError")


@functools.lru_cache(maxsize=64)
def _probe(settings: tuple[str | None, ...], bucket: str) -> str:
    """403 passes: who may write one prefix need not be allowed to see the bucket, and the real call says it better."""
    from botocore.exceptions import ClientError

    asks, at, uri = clients(settings).probe, explain.endpoint(), f"s3://{bucket}"

    def ask() -> dict[str, Any]:
        if at in _answered:
            return asks.head_bucket(Bucket=bucket)
        try:
            return retrying(lambda: asks.head_bucket(Bucket=bucket), uri, "read", silent, FIRST_CONTACT)
        except ClientError:
            _answered.add(at)
            raise

    def silent(exc: BaseException) -> str | None:
        return passing(exc) if type(exc).__name__ in _SILENT else None

    def again(exc: BaseException) -> str | None:
        no_tls = type(exc).__name__ == "SSLError" and at not in _answered  # https:// to a server that speaks http
        return None if no_tls else passing(exc)

    try:
        answer = retrying(ask, uri, "read", again)
    except ClientError as exc:
        answer = exc.response
        if code_of(exc) in ("404", "NoSuchBucket"):
            raise ClientError({"Error": {"Code": "NoSuchBucket"}}, "HeadBucket") from exc
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status not in (301, 307, 400, 403):
            raise
        found = False
    else:
        found = True
    _answered.add(at)
    region = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    if found or region:
        _regions[at, bucket] = region or asks.meta.region_name
    return region or asks.meta.region_name


@functools.lru_cache(maxsize=8)
def _filesystem(settings: tuple[str | None, ...], region: str) -> Any:
    import pyarrow.fs as fs

    options: dict[str, Any] = {"region": region, "connect_timeout": 10, "request_timeout": 30}
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=PATIENCE.tries)
    if explain.endpoint() == "AWS":
        return fs.S3FileSystem(retry_strategy=retries, **options)
    scheme, _, host = explain.endpoint().partition("://")
    options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme}
    options |= {"force_virtual_addressing": addressing() == "virtual"}
    if scheme == "https" and os.environ.get("AWS_CA_BUNDLE"):
        options |= {"tls_ca_file_path": os.environ["AWS_CA_BUNDLE"]}
    # The SDK under pyarrow takes these from the environment alone, when a client is made.
    unset = [name for name in CHECKSUMS if name not in os.environ]
    with _lock:
        os.environ.update(dict.fromkeys(unset, "when_required"))
        try:
            return fs.S3FileSystem(retry_strategy=retries, **options)
        finally:
            for name in unset:
                del os.environ[name]


def code_of(exc: BaseException) -> str:
    """S3's error code in an exception of botocore, "" in any other."""
    response = getattr(exc, "response", None)  # None in errors of a connection
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
