"""What a packing is asked for, and the digest that tells whether two packings would write the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from kdray.data.pack.collection import Collection
from kdray.errors import ConfigError, nearest

MIB = 1 << 20
LAYOUT = 1  # raised when the same source and options come to give other bytes
ORDERS = ("mixed", "source")
SMALL = ("keep", "jpeg")


@dataclass(frozen=True)
class PackOptions:
    """How a collection becomes shards.

    Attributes:
        short_side: images whose shorter side is larger are made smaller to it, in pixels, and become JPEG; None keeps
            the bytes of every image.
        quality: of those JPEGs, 1 to 100.
        small: with `short_side`, what becomes of images that are small enough: "keep" keeps their bytes in whatever
            format, "jpeg" makes JPEGs of those that are none. A JPEG is never encoded again at its own size.
        shard_bytes: encoded images in one shard, about.
        row_group_rows: images in one row group, which is what a reader of one row reads.
        order: "mixed": by a hash of the path, which mixes the classes in every shard; "source": as the source lists.
        max_bad: images that may be left out because they do not decode: a float is a fraction, an int a number.
        mean_std: measure mean and standard deviation of each channel over all pixels.
    """

    short_side: int | None = None
    quality: int = 90
    small: Literal["keep", "jpeg"] = "keep"
    shard_bytes: int = 128 * MIB
    row_group_rows: int = 64
    order: Literal["mixed", "source"] = "mixed"
    max_bad: float | int = 0.001
    mean_std: bool = False

    def __post_init__(self) -> None:
        """Raises `ConfigError` for values that cannot be meant."""
        if self.short_side is not None:
            _between("--short-side", self.short_side, 8, 4096)
        _between("--quality", self.quality, 1, 100)
        _between("--shard-bytes", self.shard_bytes, 1, 1 << 40)
        _between("--row-group-rows", self.row_group_rows, 1, 1 << 20)
        _one_of("--order", self.order, ORDERS)
        _one_of("--small", self.small, SMALL)
        if self.max_bad < 0 or (isinstance(self.max_bad, float) and not self.max_bad <= 1):
            fix = "Give a fraction such as 0.001, or a whole number of images"
            raise ConfigError(f"{self.max_bad} is no limit", where="--max-bad", fix=fix)

    def bad_limit(self, items: int) -> int:
        """How many of `items` images may be bad."""
        return self.max_bad if isinstance(self.max_bad, int) else int(self.max_bad * items)


def identity(collection: Collection, options: PackOptions) -> str:
    """Digest of all that decides what is written, but for the version of the libraries that encode (see `encoder`)."""
    said: dict[str, Any] = {
        "layout": LAYOUT,
        "source": collection.fingerprint,
        "kind": collection.kind,
        "split": collection.split,
        "shard_bytes": options.shard_bytes,
        "row_group_rows": options.row_group_rows,
        "order": options.order,
        "mean_std": options.mean_std,
    }
    if options.short_side is not None:
        said |= {"short_side": options.short_side, "quality": options.quality, "small": options.small}
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def encoder(options: PackOptions) -> str | None:
    """The libraries that decide which bytes a re-encoded image has; None where no image is."""
    if options.short_side is None:
        return None
    import cv2
    import PIL
    from PIL import features

    jpeg = "libjpeg-turbo" if features.check_feature("libjpeg_turbo") else "libjpeg"
    return f"Pillow {PIL.__version__} ({jpeg} {features.version('jpg')}), OpenCV {cv2.__version__}"


def _between(flag: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{value} is out of range", where=flag, fix=f"Give a whole number from {low} to {high}")


def _one_of(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(
            f"{value!r} is not known{nearest(value, choices)}", where=flag, fix=f"Use {' or '.join(choices)}"
        )
