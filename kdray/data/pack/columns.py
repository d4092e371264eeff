"""Which columns of a Parquet file are the image and the label."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.types as types

from kdray.data.pack.listing import told
from kdray.errors import DataError

IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label", "class")


@dataclass(frozen=True)
class Columns:
    """Column paths: of the image's bytes, of the label, and of the image's path where there is one."""

    image: str
    label: str
    path: str | None


def choose(schema: pa.Schema, where: str) -> Columns:
    """By usual name, by what Hugging Face's metadata calls them, or the only one that can be meant.

    Raises:
        DataError: none or several could be meant.
    """
    features = _features(schema)
    pixels = [field.name for field in schema if _is_image(field.type)]
    classes = [field.name for field in schema if _is_label(field.type)]
    called = {kind: [name for name, said in features.items() if said == kind] for kind in ("Image", "ClassLabel")}
    image = _one("image", IMAGES, [name for name in pixels if name in called["Image"]], pixels, schema, where)
    label = _one("label", LABELS, [name for name in classes if name in called["ClassLabel"]], classes, schema, where)
    kind = schema.field(image).type
    if not types.is_struct(kind):
        return Columns(image, label, None)
    has_path = kind.get_field_index("path") >= 0 and types.is_string(kind.field("path").type)
    return Columns(f"{image}.bytes", label, f"{image}.path" if has_path else None)


def _one(
    what: str, usual: tuple[str, ...], called: list[str], possible: list[str], schema: pa.Schema, where: str
) -> str:
    for name in usual:
        if name in possible:
            return name
    for names in (called, possible):
        if len(names) == 1:
            return names[0]
    kinds = "bytes of a JPEG or PNG" if what == "image" else "class numbers or names"
    which = f"several columns could be the {what}: {told(possible)}" if possible else f"no column holds {kinds}"
    has = told([f"{field.name} ({field.type})" for field in schema])
    raise DataError(f"{which}; it has {has}", where=where, fix=f"Name the one that is meant {usual[0]!r}")


def _is_bytes(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_image(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_label(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return types.is_string(kind.value_type)
    return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """{column: kind} of Hugging Face's metadata; empty where there is none."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return {name: feature.get("_type") for name, feature in said["info"]["features"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
