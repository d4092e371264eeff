"""Where a URI points: which kind of storage, and the path in it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from kdray.errors import StoreError, nearest

Scheme = Literal["local", "s3", "gs"]


@dataclass(frozen=True)
class Place:
    """`path` is absolute for "local" and `bucket/key` (no slash at either end) for object stores."""

    scheme: Scheme
    path: str

    @property
    def uri(self) -> str:
        return self.path if self.scheme == "local" else f"{self.scheme}://{self.path}"

    def under(self, rel: str) -> Place:
        """The place at the relative path `rel` ("" is this place); raises `StoreError` when `rel` leads out of it."""
        parts = [part for part in rel.split("/") if part not in ("", ".")]
        if rel.startswith("/") or ".." in parts:
            raise StoreError(f"{rel!r} leads out of the store", where=self.uri, fix="Use a relative path without '..'")
        return self if not parts else Place(self.scheme, "/".join([self.path.rstrip("/"), *parts]))


NO_KEYS = "Name the bucket alone; keys come from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, a role)"


def holds_keys(uri: str) -> bool:
    """Whether keys, or a name and password, stand in `uri`, which would come into logs and records with it.

    A secret may have slashes, which end what looks like the bucket; no bucket has a colon.
    """
    scheme, _, rest = uri.partition("://")
    bucket = rest.partition("/")[0]
    return "@" in bucket or (scheme.lower() in ("s3", "gs") and ":" in bucket and not bucket.startswith("arn:"))


def without_keys(url: str) -> str:
    """`url` as it may be shown: without all that stands between `//` and the last `@`."""
    return re.sub(r"//.*@", "//", url, flags=re.DOTALL)


def parse(uri: str | os.PathLike[str]) -> Place:
    """Read a local path, `file://`, `s3://` or `gs://` URI.

    A relative path is taken from where the command runs and made absolute at once, for a Ray worker runs elsewhere.
    An object key is literal: `?`, `#` and `%` are characters of the name.
    """
    text = os.fspath(uri)
    if not text or "\0" in text:
        raise StoreError(
            f"{text!r} is no path or URI", fix="Give a local path, s3://bucket/prefix or gs://bucket/prefix"
        )
    head, mark, rest = text.partition("://")
    if not mark:
        return Place("local", os.path.abspath(os.path.expanduser(text)))
    scheme = head.lower()
    if holds_keys(text):
        raise StoreError("keys stand in the URI", where=f"{scheme}://...", fix=NO_KEYS)
    if scheme == "file":
        if not rest.startswith("/"):
            raise StoreError(
                "a file:// URI names a path on this machine", where=text, fix="Write file:///absolute/path"
            )
        return Place("local", os.path.normpath("/" + rest.lstrip("/")))
    if scheme not in ("s3", "gs"):
        hint = nearest(scheme, ["s3", "gs", "file"])
        problem, fix = f"storage {scheme!r} is not known{hint}", "Use a local path, s3:// or gs://"
        raise StoreError(problem, where=without_keys(text), fix=fix)
    parts = [part for part in rest.split("/") if part]
    if not parts or rest.startswith("/"):
        raise StoreError("no bucket is named", where=text, fix=f"Write {scheme}://bucket/prefix")
    if "." in parts or ".." in parts:
        raise StoreError("'.' and '..' have no meaning in an object store", where=text, fix="Write the key out")
    return Place("s3" if scheme == "s3" else "gs", "/".join(parts))
