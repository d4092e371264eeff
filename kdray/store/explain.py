"""What an exception of the operating system, botocore or pyarrow means, as one `StoreError` with the way out.

Only codes, host names and paths are quoted: messages of the libraries may carry request ids, never our credentials.
"""

from __future__ import annotations

import errno
import os

from kdray.errors import StoreError
from kdray.store.place import without_keys

ELSEWHERE = "use another place"


def endpoint() -> str:
    """The S3 endpoint of the environment, or "AWS"."""
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    return without_keys(given)  # a name and password there would come into logs, and S3 knows none


def explain(exc: BaseException, uri: str, doing: str) -> StoreError:
    """Turn `exc`, met while `doing` ("read", "write", "list", "delete") at `uri`, into a `StoreError`."""
    if isinstance(exc, StoreError):
        return exc
    code = _s3_code(exc)
    if code is not None:
        return _s3(code, uri, doing)
    if "google::cloud::Status" in str(exc):
        return _google(str(exc), uri, doing)
    if isinstance(exc, OSError):
        return _os(exc, uri, doing)
    return StoreError(f"cannot {doing}: {type(exc).__name__}: {_one_line(exc)}", where=uri)


def _s3_code(exc: BaseException) -> str | None:
    """One of S3's error codes, or our own: Endpoint, NoCredentials, Profile; None when `exc` is not from S3."""
    response = getattr(exc, "response", None)
    if isinstance(response, dict):  # botocore.exceptions.ClientError
        return str(response.get("Error", {}).get("Code", "Unknown"))
    name = type(exc).__name__
    if name in _BOTOCORE:
        return _BOTOCORE[name]
    if not isinstance(exc, OSError):
        return None
    text = str(exc)
    if "AWS Error" in text or "AWS error" in text:  # pyarrow.fs gives the SDK's error kind in the text only
        return next((code for mark, code in _ARROW.items() if mark in text), "Unknown")
    return None


_BOTOCORE = {
    "EndpointConnectionError": "Endpoint",
    "ConnectTimeoutError": "Endpoint",
    "ReadTimeoutError": "Endpoint",
    "ConnectionClosedError": "Endpoint",
    "HTTPClientError": "Endpoint",
    "ResponseStreamingError": "Broken",
    "IncompleteReadError": "Broken",
    "FlexibleChecksumError": "Damaged",
    "ProxyConnectionError": "Endpoint",
    "SSLError": "Tls",
    "NoCredentialsError": "NoCredentials",
    "PartialCredentialsError": "NoCredentials",
    "CredentialRetrievalError": "NoCredentials",
    "TokenRetrievalError": "NoCredentials",
    "SSOTokenLoadError": "NoCredentials",
    "UnauthorizedSSOTokenError": "NoCredentials",
    "ProfileNotFound": "Profile",
    "NoRegionError": "Region",
    "InvalidRegionError": "Region",
    "ParamValidationError": "BucketName",
}
_ARROW = {
    "NO_SUCH_BUCKET": "NoSuchBucket",
    "NO_SUCH_KEY": "NoSuchKey",
    "ACCESS_DENIED": "AccessDenied",
    "INVALID_ACCESS_KEY_ID": "InvalidAccessKeyId",
    "SIGNATURE_DOES_NOT_MATCH": "SignatureDoesNotMatch",
    "NETWORK_CONNECTION": "Endpoint",
    "REQUEST_TIMEOUT": "Endpoint",
    "SLOW_DOWN": "SlowDown",
    "SERVICE_UNAVAILABLE": "ServiceUnavailable",
    "INTERNAL_FAILURE": "InternalError",
    "RESOURCE_NOT_FOUND": "NoSuchKey",
    "HTTP status 403": "AccessDenied",
    "HTTP status 404": "NoSuchKey",
    "HTTP status 500": "InternalError",
    "HTTP status 503": "ServiceUnavailable",
}
_KEYS_REFUSED = {
    "InvalidAccessKeyId": "the access key is not known",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "ExpiredToken": "the session token has expired",
    "ExpiredTokenException": "the session token has expired",
    "TokenRefreshRequired": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}


def _s3(code: str, uri: str, doing: str) -> StoreError:
    bucket = uri.partition("://")[2].partition("/")[0]
    at = endpoint()
    problem, fix = f"cannot {doing}: {at} answered {code}", "Try again, or look at the server's log"
    if code == "Endpoint":
        problem = f"endpoint {at} does not answer"
        fix = "Check that it is up and that AWS_ENDPOINT_URL_S3 (or AWS_ENDPOINT_URL), proxy and network are right"
    elif code in ("Broken", "Damaged"):
        problem = f"answers of {at} {'break off' if code == 'Broken' else 'do not fit their checksums'}"
        fix = "Check the network and what stands between (proxy, load balancer), then start again: the run continues"
    elif code in ("SlowDown", "ServiceUnavailable", "InternalError", "Throttling", "503", "500"):
        problem = f"cannot {doing}: {at} answers {code}"
        fix = "The server is overloaded or ill: start again later, the run continues; fewer workers ask less at once"
    elif code == "Tls":
        problem, fix = f"endpoint {at} has no valid TLS certificate", "Check http/https, or set AWS_CA_BUNDLE"
    elif code == "NoCredentials":
        problem = "no credentials were found"
        fix = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or use a machine with a role"
    elif code == "Profile":
        problem, fix = "the profile in AWS_PROFILE does not exist", "Correct AWS_PROFILE or ~/.aws/config"
    elif code == "Region":
        problem, fix = "no valid region is set", "Set AWS_REGION"
    elif code == "NoSuchBucket":
        problem, fix = f"bucket {bucket!r} does not exist at {at}", "Create it or correct the URI"
    elif code in ("BucketName", "InvalidBucketName"):
        problem, fix = f"{bucket!r} is no valid bucket name or the key is not valid", "Correct the URI"
    elif code in ("NoSuchKey", "404", "NotFound"):
        problem, fix = "does not exist", "Check the URI"
    elif code in _KEYS_REFUSED:
        problem, fix = f"{at} refused the credentials: {_KEYS_REFUSED[code]}", "Correct the AWS_* variables or profile"
    elif code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"):
        action = {"write": "s3:PutObject", "delete": "s3:DeleteObject", "list": "s3:ListBucket"}.get(
            doing, "s3:GetObject"
        )
        problem = f"no permission to {doing}"
        fix = (
            f"Give these credentials {action} on it, renew them if they are temporary, "
            "or set others (AWS_PROFILE, AWS_ACCESS_KEY_ID)"
        )
    elif code in ("QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull", "507"):
        problem, fix = f"no space left at {at}", f"Free some, raise the quota, or {ELSEWHERE}"
    elif code == "MissingContentLength":
        problem = f"cannot {doing}: {at} does not know checksum trailers"
        fix = "Set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
    elif code in ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        problem, fix = f"bucket {bucket!r} is in another region", "Set AWS_REGION to the bucket's region"
    return StoreError(problem, where=uri, fix=fix)


def _google(text: str, uri: str, doing: str) -> StoreError:
    """pyarrow gives Google's status only as text: `google::cloud::Status(CODE: message ...)`."""
    code = text.partition("google::cloud::Status(")[2].partition(":")[0]
    if "OAuth2" in text or code == "UNAUTHENTICATED":
        problem = "no Google credentials were found"
        fix = "Run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
    elif code == "PERMISSION_DENIED":
        problem, fix = f"no permission to {doing}", "Give these credentials a role on the bucket, or set others"
    elif code == "NOT_FOUND":
        problem, fix = "does not exist", "Check the bucket and the path"
    elif code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        problem, fix = (
            "Google Cloud Storage does not answer",
            "Check the network and STORAGE_EMULATOR_HOST, or try again",
        )
    else:
        problem, fix = f"cannot {doing}: Google Cloud Storage answered {code or 'an error'}", "Try again"
    return StoreError(problem, where=uri, fix=fix)


def _os(exc: OSError, uri: str, doing: str) -> StoreError:
    number = exc.errno
    if isinstance(exc, FileNotFoundError):
        problem, fix = "does not exist", "Check the path"
    elif isinstance(exc, PermissionError) or number == errno.EROFS:
        what = "the file system is read-only" if number == errno.EROFS else f"no permission to {doing}"
        problem, fix = what, f"Give this user {doing} permission there, or {ELSEWHERE}"
    elif number in (errno.ENOSPC, errno.EDQUOT):
        problem, fix = "no space left on the device", f"Free some space or {ELSEWHERE}"
    elif number == errno.EFBIG:
        problem, fix = "the file would be larger than allowed", f"Raise `ulimit -f` or {ELSEWHERE}"
    elif isinstance(exc, NotADirectoryError | FileExistsError):
        problem, fix = "a file stands where a folder should be", "Remove the file or use another path"
    elif isinstance(exc, IsADirectoryError):
        problem, fix = "is a folder, not a file", "Give the path of a file"
    elif number == errno.ENAMETOOLONG:
        problem, fix = "the name is too long for the file system", "Use a shorter name"
    else:
        problem, fix = f"cannot {doing}: {_one_line(exc)}", ""
    return StoreError(problem, where=uri, fix=fix or None)


def _one_line(exc: BaseException) -> str:
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return " ".join(text.split())[:300]
