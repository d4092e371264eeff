"""Errors that a user can act on: each is one line that says where, what, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KdrayError(Exception):
    """Base of all errors that kdray raises on purpose.

    `exit_code` is what the command returns for it: 2 for bad input, 1 for a run that failed.
    """

    exit_code = 1

    def __init__(self, problem: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.problem = problem
        self.where = where
        self.fix = fix
        super().__init__(problem, where, fix)

    def __str__(self) -> str:
        text = f"{self.where}: {self.problem}" if self.where else self.problem
        return f"{text}. {self.fix}" if self.fix else text

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (a Ray worker to the driver); keyword arguments would be lost by the default.
        return (_rebuild, (type(self), self.problem, self.where, self.fix))


def _rebuild(cls: type[KdrayError], problem: str, where: str | None, fix: str | None) -> KdrayError:
    return cls(problem, where=where, fix=fix)


class InputError(KdrayError):
    """What was given cannot work: nothing was started."""

    exit_code = 2


class ConfigError(InputError):
    """The experiment file or a `--set` is wrong."""


class DataError(InputError):
    """Shards, labels or images are not what they should be."""


class ModelError(InputError):
    """A model, a layer or a weights file does not fit."""


class StoreError(InputError):
    """The run store or a URI cannot be read or written."""


class ClusterError(InputError):
    """The cluster cannot hold what the experiment asks for."""


class TrainingError(KdrayError):
    """A run stopped by itself: a loss that is not finite, or that diverges."""


class Interrupted(KdrayError):
    """The user stopped the run; its state was saved first."""

    exit_code = 130


def nearest(value: str, choices: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest of `choices`, or "" when none is close."""
    found = difflib.get_close_matches(value, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""
