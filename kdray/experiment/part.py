"""What every piece of an experiment shares: strict, frozen, and a plain form that digests are computed from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

# Put on a field whose value never changes a result (where it runs, how often it saves, what it is called).
OPERATIONAL: dict[str, Any] = {"operational": True}


class Part(BaseModel):
    """Base of all typed pieces of an experiment.

    Frozen; unknown keys are errors; values are taken strictly (a quoted "3" is no number, `true` is no 1, an integer
    is a fine float); NaN and infinity are refused. A `null` means None where the field takes None, and "as if the key
    were not written" where it does not but has a default, so that an emptied section (`cluster:`) is the default one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        dropped = _null_means_default(cls)
        return {key: value for key, value in data.items() if value is not None or key not in dropped}

    def canonical(self, results_only: bool = False) -> dict[str, Any]:
        """Return the plain form: only what differs from its default, keys sorted, tuples as lists.

        Two parts have equal plain forms exactly when they mean the same, however they were written down.
        `results_only` leaves out the operational fields too: those that change no result.
        """
        plain: dict[str, Any] = {}
        for name, field in sorted(type(self).model_fields.items()):
            if results_only and is_operational(type(self), name):
                continue
            value = plain_form(getattr(self, name), results_only)
            if not field.is_required():
                default = plain_form(field.get_default(call_default_factory=True), results_only)  # type: ignore[call-arg]
                if _same(value, default):
                    continue
            plain[name] = value
        return plain


def plain_form(value: Any, results_only: bool = False) -> Any:
    """Return `value` with every Part in it replaced by its `canonical` form and every tuple by a list."""
    if isinstance(value, Part):
        return value.canonical(results_only)
    if isinstance(value, Mapping):
        return {key: plain_form(value[key], results_only) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [plain_form(item, results_only) for item in value]
    return value


def digest_of(value: Any, *, results_only: bool = True) -> str:
    """Return the sha256 (64 hex digits) of the plain form of a Part, or of dicts and lists of Parts and plain values.

    A digest names an artifact by what made it, so the operational fields of Parts are left out unless `results_only`
    is false. Raises TypeError or ValueError on values that JSON cannot hold exactly (objects, NaN, infinity).
    """
    text = json.dumps(plain_form(value, results_only), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def is_operational(part: type[Part], name: str) -> bool:
    """Whether the field `name` of `part` changes no result."""
    extra = part.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("operational"))


def refuse(problem: str, fix: str, at: tuple[str | int, ...] = (), value: Any = None) -> PydanticCustomError:
    """Return the error that validators raise: `at` is the key's path below the validated value.

    `value` is what stands there, for the message; left out where the problem names it already.
    """
    context = {"problem": problem, "fix": fix, "at": at, "value": value}
    return PydanticCustomError("kdray", "{problem}. {fix}", context)


@cache
def _null_means_default(part: type[Part]) -> frozenset[str]:
    fields = part.model_fields.items()
    return frozenset(n for n, f in fields if not f.is_required() and type(None) not in get_args(f.annotation))


def _same(left: Any, right: Any) -> bool:
    # 1 == True in Python; in a free-form parameter they are two different settings.
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def both_or_none(part: Part, one: str = "mean", other: str = "std") -> None:
    """Refuse a part in which only one of two keys is given."""
    for key, missing in ((one, other), (other, one)):
        if getattr(part, key) is None and getattr(part, missing) is not None:
            raise refuse(f"is given without {key}", "Give both, or neither", (missing,))


def only_for(part: Any, owners: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a key that the chosen `type` would ignore. One that stands at its default says nothing and may stay."""
    for key, kinds in owners.items():
        value, default = getattr(part, key), type(part).model_fields[key].get_default(call_default_factory=True)
        if part.type not in kinds and value != default:
            problem = f"{key} {value} belongs to type {' or '.join(kinds)}, but the type is {part.type}"
            raise refuse(problem, f"Remove it, or write type: {kinds[0]}", (key,))
