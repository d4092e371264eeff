"""Names of the network families: a decorator beside each builder, found by looking through this package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from kdray.errors import ModelError, nearest


@dataclass(frozen=True)
class Entry:
    """A named network: `builder(num_classes, **fixed, **params)` gives its plain module."""

    name: str
    builder: Callable[..., nn.Module]
    fixed: Mapping[str, Any]
    source: str
    layout: str

    @property
    def accepted(self) -> list[str]:
        """Parameters that an experiment may set."""
        names = inspect.signature(self.builder).parameters
        return [name for name in names if name != "num_classes" and name not in self.fixed]

    def __call__(self, num_classes: int, params: Mapping[str, Any]) -> nn.Module:
        """Build the module; ModelError when a parameter is unknown."""
        for key in params:
            if key not in self.accepted:
                raise ModelError(
                    f"{self.name} knows no parameter {key!r}{nearest(key, self.accepted)}",
                    where="params",
                    fix=f"it takes: {', '.join(self.accepted)}",
                )
        return self.builder(num_classes, **self.fixed, **params)


_entries: dict[str, Entry] = {}
_aliases: dict[str, str] = {}


def register_model(
    name: str, *, source: str, layout: str, alias: str | None = None, **fixed: Any
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register a builder under `name`.

    Args:
        name: what an experiment writes after `model:`.
        source: where the architecture comes from.
        layout: whose published checkpoints have the same state dict keys.
        alias: another name found in the literature.
        fixed: arguments of the builder that this name stands for.
    """

    def add(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for key in (name, alias):
            if key in _entries or key in _aliases:
                raise ValueError(f"two networks are registered as {key!r}")
        _entries[name] = Entry(name, builder, fixed, source, layout)
        if alias:
            _aliases[alias] = name
        return builder

    return add


@cache
def _discover() -> None:
    package = importlib.import_module("kdray.models")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


def entries() -> dict[str, Entry]:
    """All registered networks by name, in the order of their names' families."""
    _discover()
    return dict(_entries)


def find(name: str) -> Entry | None:
    """The network of that name or alias, None when there is none."""
    _discover()
    return _entries.get(_aliases.get(name, name))


def known_names() -> list[str]:
    """Every name and alias that an experiment may write without a prefix."""
    _discover()
    return [*_entries, *_aliases]
