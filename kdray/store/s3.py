"""S3 and whatever speaks it, by boto3: an object is visible only when its upload has completed.

pyarrow's output stream completes an upload when it is closed, also after an exception: it could leave a truncated
object that looks whole. So kdray writes with boto3, and pyarrow only reads (Parquet, in ranges).
"""

from __future__ import annotations

import functools
import io
import os
import re
from typing import Any

from kdray.errors import StoreError
from kdray.store import explain
from kdray.store.local import replacing

# An endpoint that does not answer must be told within 15 s, a busy one must not break a run of days.
_PROBE = {"connect_timeout": 4, "read_timeout": 6, "retries": {"mode": "standard", "total_max_attempts": 2}}
_WORK = {"connect_timeout": 10, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 6}}
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
)


class S3Objects:
    """Paths are `bucket/key`; what goes wrong is botocore's exception, or `FileNotFoundError` for no such object."""

    def write(self, path: str, data: bytes | memoryview) -> None:
        bucket, key = _split(path)
        if len(data) > 64 << 20:  # one PUT holds 5 GiB at most; parts also retry by themselves
            client(bucket).upload_fileobj(io.BytesIO(data), bucket, key)
        else:
            client(bucket).put_object(Bucket=bucket, Key=key, Body=bytes(data))

    def write_file(self, path: str, source: str) -> None:
        bucket, key = _split(path)
        with open(source, "rb") as file:
            client(bucket).upload_fileobj(file, bucket, key)

    def read(self, path: str) -> bytes:
        bucket, key = _split(path)
        try:
            return client(bucket).get_object(Bucket=bucket, Key=key)["Body"].read()
        except Exception as exc:
            raise _absent(exc, path) from exc

    def read_file(self, path: str, target: str) -> None:
        bucket, key = _split(path)
        try:
            with replacing(os.path.abspath(target)) as file:
                client(bucket).download_fileobj(bucket, key, file)
        except Exception as exc:
            raise _absent(exc, path) from exc

    def exists(self, path: str) -> bool:
        bucket, key = _split(path)
        if key:
            try:
                client(bucket).head_object(Bucket=bucket, Key=key)
            except Exception as exc:
                if not isinstance(_absent(exc, path), FileNotFoundError):
                    raise
            else:
                return True
        found = client(bucket).list_objects_v2(Bucket=bucket, Prefix=_folder(key), MaxKeys=1)
        return bool(found.get("Contents")) or not key

    def list(self, path: str) -> list[str]:
        bucket, key = _split(path)
        prefix = _folder(key)
        names: set[str] = set()
        for page in (
            client(bucket).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        ):
            names.update(entry["Key"][len(prefix) :] for entry in page.get("Contents", ()))
            names.update(entry["Prefix"][len(prefix) : -1] for entry in page.get("CommonPrefixes", ()))
        return sorted(names - {""})

    def delete(self, path: str) -> None:
        bucket, key = _split(path)
        if not key:
            raise PermissionError(1, "a whole bucket is never deleted", path)
        work = client(bucket)
        work.delete_object(Bucket=bucket, Key=key)
        for page in work.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=_folder(key)):
            keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
            if keys:
                left = work.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True}).get("Errors", ())
                if left:
                    from botocore.exceptions import ClientError

                    raise ClientError({"Error": left[0]}, "DeleteObjects")


def client(bucket: str) -> Any:
    """The boto3 client of the present environment, once the endpoint is known to answer for `bucket`."""
    settings = environment()
    _probe(settings, bucket)
    return _clients(settings)[1]


def environment() -> tuple[str | None, ...]:
    return (str(os.getpid()), *(os.environ.get(name) for name in _ENVIRONMENT))


def filesystem(bucket: str) -> Any:
    """A `pyarrow.fs.S3FileSystem` for reading, at the same endpoint and in the bucket's region."""
    settings = environment()
    return _filesystem(settings, _probe(settings, bucket))


@functools.lru_cache(maxsize=4)
def _clients(settings: tuple[str | None, ...]) -> tuple[Any, Any]:
    """(probe, work): building a client takes a tenth of a second, and its connections are worth keeping."""
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()
    at = explain.endpoint()
    if at != "AWS" and not re.match(r"https?://[^/]", at):
        fix = "Write http://host:port or https://host"
        raise StoreError(f"{at!r} is no endpoint", where="AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL", fix=fix)
    region = os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
    extra: dict[str, Any] = {"max_pool_connections": 32}
    if at != "AWS":
        # Other servers often know neither the checksums that AWS made the default in 2025 nor buckets as host names.
        extra["s3"] = {"addressing_style": "path"}
        for name in ("request_checksum_calculation", "response_checksum_validation"):
            extra[name] = os.environ.get("AWS_" + name.upper(), "when_required").lower()
    probe, work = (
        session.client(
            "s3",
            endpoint_url=None if at == "AWS" else at,
            region_name=region,
            config=Config(**settings, **extra),
        )
        for settings in (_PROBE, _WORK)
    )
    return probe, work


@functools.lru_cache(maxsize=64)
def _probe(settings: tuple[str | None, ...], bucket: str) -> str:
    """Ask once whether the bucket is there, with short timeouts; return its region.

    403 passes: who may write one prefix need not be allowed to see the bucket, and the real call says it better.
    """
    from botocore.exceptions import ClientError

    probe = _clients(settings)[0]
    try:
        answer = probe.head_bucket(Bucket=bucket)
    except ClientError as exc:
        answer = exc.response
        if str(answer.get("Error", {}).get("Code")) in ("404", "NoSuchBucket"):
            raise ClientError({"Error": {"Code": "NoSuchBucket"}}, "HeadBucket") from exc
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status not in (301, 307, 400, 403):
            raise
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers.get("x-amz-bucket-region") or probe.meta.region_name


@functools.lru_cache(maxsize=8)
def _filesystem(settings: tuple[str | None, ...], region: str) -> Any:
    import pyarrow.fs as fs

    options: dict[str, Any] = {"region": region, "connect_timeout": 10, "request_timeout": 30}
    if explain.endpoint() != "AWS":
        scheme, _, host = explain.endpoint().partition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme}
    return fs.S3FileSystem(retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=5), **options)


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key


def _folder(key: str) -> str:
    return f"{key}/" if key else ""


def _absent(exc: Exception, path: str) -> Exception:
    code = str(getattr(exc, "response", {}).get("Error", {}).get("Code", ""))
    return FileNotFoundError(2, "No such object", path) if code in ("NoSuchKey", "404", "NotFound") else exc
