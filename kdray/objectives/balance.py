"""What `balance:` means for an experiment's objectives: which parts, to which reference, and what weights follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kdray.errors import ConfigError, nearest
from kdray.experiment.balance_part import Balance
from kdray.experiment.merge import merge
from kdray.experiment.part import Part
from kdray.objectives.ce import CE
from kdray.objectives.leaves import Leaf, leaves
from kdray.objectives.registry import normalise

WHERE = "balance"
DIGITS = 4  # of a weight: what is printed is what is trained with


class Balanced(Part):
    """Weights as they were set, and from what.

    All but the last two are by label. `norms` of the gradients on the pooled vector are the means over the last
    `averaged` of `batches`; None where there is no gradient or it is not finite. `shares` are those asked for,
    `shares_before` those that the weights in the file, `weights_before`, give. `kept` says why a part that was asked
    for has its weight still. `objectives` holds the new weights alone, nested as in the file.
    """

    reference: str
    batches: int
    averaged: int
    norms: dict[str, float | None]
    shares: dict[str, float]
    shares_before: dict[str, float | None]
    weights_before: dict[str, float]
    weights: dict[str, float]
    kept: dict[str, str]
    objectives: dict[str, Any]

    def applied(self, objectives: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """`objectives`, normalised, with these weights."""
        return normalise(merge(dict(objectives), self.objectives, ("objectives",)))


def resolve(balance: Balance, objectives: Mapping[str, Any]) -> Balance | None:
    """`balance` with every part and the reference named, or None where `share` finds no part but the reference.

    Equal meanings give equal results, hence equal digests.

    Raises:
        ConfigError: a part that is not there or has weight 0, or no reference.
    """
    known = leaves(objectives)
    to = _reference(balance, known)
    if balance.share is not None:
        shares = {label: balance.share for label, leaf in sorted(known.items()) if leaf.total > 0 and label != to}
        return Balance(shares=shares, to=to, batches=balance.batches) if shares else None
    for label in balance.shares:
        where = f"{WHERE}.shares.{label}"
        _check(label, known, where)
        if label == to:
            fix = f"Remove it, or name another reference: {WHERE}.to"
            raise ConfigError(f"{to} is the reference: its share is 1", where=where, fix=fix)
    return Balance(shares=dict(sorted(balance.shares.items())), to=to, batches=balance.batches)


def _reference(balance: Balance, known: Mapping[str, Leaf]) -> str:
    if balance.to is not None:
        _check(balance.to, known, f"{WHERE}.to")
        return balance.to
    found = [label for label, leaf in known.items() if issubclass(leaf.objective, CE) and leaf.total > 0]
    if "ce" in found:
        return "ce"
    if len(found) == 1:
        return found[0]
    problem = f"{' and '.join(found)} may be the reference" if found else "no part is a cross-entropy to balance to"
    raise ConfigError(problem, where=f"{WHERE}.to", fix=f"Name one: {', '.join(found or _computed(known))}")


def _check(label: str, known: Mapping[str, Leaf], where: str) -> None:
    """Raise ConfigError where `label` is no part that is computed."""
    leaf = known.get(label)
    if leaf is not None:
        if leaf.total == 0:
            fix = "Give it one above 0 to start from, or leave it out here"
            raise ConfigError(f"{label} has weight 0, so it is not computed", where=where, fix=fix)
        return
    members = [other for other in known if other.startswith(f"{label}.")]
    if members:
        raise ConfigError(f"{label} is made of parts", where=where, fix=f"Name them: {', '.join(members)}")
    outer = next((other for other in known if label.startswith(f"{other}.")), None)
    if outer is not None:
        problem = f"{label} has no weight of its own that could be set"
        raise ConfigError(problem, where=where, fix=f"Write {outer}, and give what is in it by its own options")
    problem = f"no part {label!r}{nearest(label, known)}"
    raise ConfigError(problem, where=where, fix=f"Parts here: {', '.join(_computed(known))}")


def _computed(known: Mapping[str, Leaf]) -> list[str]:
    return [label for label, leaf in known.items() if leaf.total > 0]


def set_weights(
    balance: Balance,
    objectives: Mapping[str, Any],
    norms: Mapping[str, float | None],
    *,
    batches: int,
    averaged: int,
) -> Balanced:
    """The weights that give each part its share, of a resolved `balance` and the `norms` that were measured.

    weight_p = share_p * norm_to * weight_to / norm_p; a part whose norm is None (no gradient there), 0 or not finite
    keeps its weight.

    Raises:
        ConfigError: the reference has no such gradient.
    """
    known = {label: leaf for label, leaf in leaves(objectives).items() if leaf.total > 0}
    assert balance.to is not None
    wrong = _unusable(norms[balance.to])
    if wrong is not None:
        fix = f"Name another part: {', '.join(label for label in known if _unusable(norms[label]) is None)}"
        raise ConfigError(f"{balance.to} cannot be the reference: {wrong}", where=f"{WHERE}.to", fix=fix)
    reference = known[balance.to].total * float(norms[balance.to] or 0.0)
    before = {label: leaf.weight for label, leaf in known.items()}
    now: dict[str, float] = {}
    kept: dict[str, str] = {}
    for label, share in balance.shares.items():
        norm, leaf = norms[label], known[label]
        wrong = _unusable(norm)
        if wrong is None:
            now[label] = float(f"{share * reference / (float(norm or 0.0) * leaf.around):.{DIGITS}g}")
            wrong = None if now[label] > 0 and math.isfinite(now[label]) else "its gradient is too small or too large"
        if wrong is not None:
            kept[label] = wrong
            now.pop(label, None)
    return Balanced(
        reference=balance.to,
        batches=batches,
        averaged=averaged,
        norms={label: _finite(norm) for label, norm in norms.items()},
        shares=balance.shares,
        shares_before={label: _finite(_share(leaf, norms[label], reference)) for label, leaf in known.items()},
        weights_before=before,
        weights=before | now,
        kept=kept,
        objectives=_nested({known[label].keys: weight for label, weight in now.items()}),
    )


def _unusable(norm: float | None) -> str | None:
    if norm is None:
        return "it does not reach the student's pooled vector"
    if not math.isfinite(norm):
        return "its gradient is not finite"
    return "its gradient is 0" if norm == 0 else None


def _share(leaf: Leaf, norm: float | None, reference: float) -> float | None:
    return None if norm is None else leaf.total * norm / reference


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _nested(weights: Mapping[tuple[str, ...], float]) -> dict[str, Any]:
    """{("clmkd", "kd"): 0.5} -> {"clmkd": {"kd": {"weight": 0.5}}}."""
    nested: dict[str, Any] = {}
    for keys, weight in weights.items():
        place = nested
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place.setdefault(keys[-1], {})["weight"] = weight
    return nested
