"""A user's own models and objectives in a stage's digest: by the source of the module that holds them."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

from kdray.experiment import ModelSpec
from kdray.models import composed


def references(models: Iterable[str], objectives: dict[str, dict[str, Any]]) -> list[str]:
    """The `package.module:name` references among model names and objectives, sorted."""
    named = [*models, *(str(params.get("type", name)) for name, params in objectives.items())]
    return sorted({name for name in named if ":" in name})


def models_in(spec: ModelSpec) -> list[str]:
    """The model that `spec` names, and the student inside of a composed one."""
    inside = spec.params.get("student") if spec.model == composed.NAME else None
    name = inside.get("model") if isinstance(inside, Mapping) else None  # one that is no spec is refused by `build`
    return [spec.model, *([str(name)] if name is not None else [])]


def source_digests(names: Iterable[str]) -> dict[str, str]:
    """sha256 of the source file of each reference's module; what that module imports in turn is not seen."""
    found = {}
    for name in names:
        try:
            spec = importlib.util.find_spec(name.partition(":")[0])
        except Exception:  # a package above it is missing or broken: whoever builds from the name says so, with its key
            continue
        if spec is not None and spec.origin is not None and spec.has_location:
            with open(spec.origin, "rb") as source:
                found[name] = hashlib.sha256(source.read()).hexdigest()
    return found
