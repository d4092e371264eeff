"""A local path that the driver has seen must be seen by every node that is to read there."""

from __future__ import annotations

import os

from kdray.errors import DataError
from kdray.store.place import parse


def check_seen(uri: str) -> None:
    """Raise DataError where a local folder or file is not there or an empty folder, as a mount point without its mount
    is: all in it would seem to be gone. Only for places that are known to hold something.
    """
    place = parse(uri)
    if place.scheme != "local":
        return
    try:
        with os.scandir(place.path) as inside:
            seen = next(inside, None) is not None
    except NotADirectoryError:
        seen = True
    except FileNotFoundError:
        seen = False
    except OSError:  # it is there; what cannot be read in it says so by itself
        seen = True
    if not seen:
        fix = "Use a folder that all nodes share, s3:// or gs://, or --workers 0 to work on one machine"
        raise DataError("is not to be seen from every node of the cluster", where=uri, fix=fix)
