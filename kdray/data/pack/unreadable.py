"""Whether a read that failed says something of one file, which is then a bad item, or of the storage."""

from __future__ import annotations

import errno

from kdray.data.pack.collection import BadItem
from kdray.errors import StoreError
from kdray.store.s3_clients import code_of

_ONE_FILE = {
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ELOOP,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.EUCLEAN,
}
_ARCHIVED = "InvalidObjectState"
_ONE_KEY = {"AccessDenied", "403", "Forbidden", _ARCHIVED}  # credentials that are not known have codes of their own


def bad_item(error: StoreError, name: str = "") -> BadItem:
    """What `error`, met when a file was read, makes of it; `name` is said where the item is not the file itself.

    Raises:
        StoreError: it is the storage that fails.
    """
    cause, reason = error.__cause__, error.problem
    code = code_of(cause) if cause is not None else ""
    google = str(cause).partition("google::cloud::Status(")[2].partition(":")[0]
    if isinstance(cause, OSError) and not google:
        one = cause.errno in _ONE_FILE
    else:
        one = code in _ONE_KEY or google == "PERMISSION_DENIED"
    if not one:
        raise error
    if code == _ARCHIVED:
        reason = "is archived, and must be restored to be read"
    return BadItem(f"{name}: {reason}" if name else reason, error)
