"""What `balance:` means for objectives, and the weights that follow from norms."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kdray.errors import ConfigError
from kdray.experiment import Balance
from kdray.objectives import normalise
from kdray.objectives.balance import Balanced, resolve, set_weights

PLAIN = {"ce": {"weight": 0.5}, "kd": {"weight": 0.9}, "dkd": {"weight": 0}, "rkd": {}}


def resolved(objectives: dict[str, Any], **balance: Any) -> Balance:
    found = resolve(Balance(**balance), objectives)
    assert found is not None
    return found


def weights(objectives: dict[str, Any], norms: dict[str, float | None], **balance: Any) -> Balanced:
    return set_weights(resolved(objectives, **balance), objectives, norms, batches=8, averaged=4)


def test_equal_meanings_are_equal() -> None:
    every = Balance(shares={"kd": 0.5, "rkd": 0.5}, to="ce")
    assert resolved(PLAIN, share=0.5) == every
    assert resolved(PLAIN, shares={"rkd": 0.5, "kd": 0.5}) == every
    assert resolved(PLAIN, shares={"kd": 0.5}) == Balance(shares={"kd": 0.5}, to="ce")
    assert list(resolved(PLAIN, shares={"rkd": 0.5, "kd": 0.5}).shares) == ["kd", "rkd"]
    assert resolved(PLAIN, share=0.5, to="kd").shares == {"ce": 0.5, "rkd": 0.5}


@pytest.mark.parametrize(
    "objectives, to",
    [
        ({"clmkd": {}}, "clmkd.ce"),
        ({"clmkd": {}, "ce": {}}, "ce"),
        ({"clmkd": {"ce": {"weight": 0}}, "hard": {"type": "ce"}}, "hard"),
        ({"mlkd": {}, "kd": {}}, "mlkd.ce"),
    ],
)
def test_the_reference_is_the_cross_entropy(objectives: dict[str, Any], to: str) -> None:
    found = resolved(objectives, share=1.0)
    assert found.to == to and to not in found.shares and len(found.shares) > 0


def test_nothing_beside_the_reference_is_no_balance() -> None:
    assert resolve(Balance(share=1.0), {"ce": {}, "kd": {"weight": 0}}) is None


@pytest.mark.parametrize(
    "objectives, balance, said",
    [
        (
            PLAIN,
            {"shares": {"kdd": 1.0}},
            "balance.shares.kdd: no part 'kdd' (did you mean 'kd'?). Parts here: ce, kd, rkd",
        ),
        (PLAIN, {"shares": {"dkd": 1.0}}, "balance.shares.dkd: dkd has weight 0, so it is not computed"),
        (PLAIN, {"shares": {"ce": 1.0}}, "balance.shares.ce: ce is the reference: its share is 1"),
        (PLAIN, {"shares": {"rkd.angle": 1.0}}, "balance.shares.rkd.angle: rkd.angle has no weight of its own"),
        (PLAIN, {"share": 1.0, "to": "cee"}, "balance.to: no part 'cee' (did you mean 'ce'?)"),
        (PLAIN, {"share": 1.0, "to": "dkd"}, "balance.to: dkd has weight 0"),
        (
            {"kd": {}, "at": {}},
            {"share": 1.0},
            "balance.to: no part is a cross-entropy to balance to. Name one: kd, at",
        ),
        (
            {"mcld": {}, "clmkd": {}},
            {"share": 1.0},
            "balance.to: mcld.ce and clmkd.ce may be the reference. Name one: mcld.ce, clmkd.ce",
        ),
        (
            {"ce": {}, "mcld": {}},
            {"shares": {"mcld": 1.0}},
            "balance.shares.mcld: mcld is made of parts. Name them: mcld.ce, mcld.kd, mcld.instance, mcld.sample",
        ),
        ({"ce": {}, "mcld": {}}, {"shares": {"mcld.kd": 1.0}}, "balance.shares.mcld.kd: mcld.kd has weight 0"),
        ({"ce": {}, "mcld": {"weight": 0}}, {"shares": {"mcld.instance": 1.0}}, "mcld.instance has weight 0"),
        ({"ce": {}, "mcld": {}}, {"shares": {"mcld.instanc": 1.0}}, "did you mean 'mcld.instance'?"),
    ],
)
def test_names_that_mean_nothing(objectives: dict[str, Any], balance: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Balance(**balance), objectives)
    assert said in str(caught.value)


def test_weights_by_hand() -> None:
    """weight = share * norm of the reference * its weight / norm."""
    found = weights(PLAIN, {"ce": 0.2, "kd": 0.4, "rkd": 3.0}, shares={"kd": 0.5, "rkd": 2.0})
    assert found.weights == {"ce": 0.5, "kd": 0.5 * 0.2 * 0.5 / 0.4, "rkd": float(f"{2 * 0.2 * 0.5 / 3:.4g}")}
    assert found.weights_before == {"ce": 0.5, "kd": 0.9, "rkd": 1.0} and found.kept == {}
    assert found.shares_before == pytest.approx({"ce": 1.0, "kd": 0.9 * 0.4 / 0.1, "rkd": 30.0})
    assert found.reference == "ce" and (found.batches, found.averaged) == (8, 4)
    assert found.objectives == {"kd": {"weight": 0.125}, "rkd": {"weight": 0.06667}}
    assert found.applied(PLAIN) == normalise({**PLAIN, "kd": {"weight": 0.125}, "rkd": {"weight": 0.06667}})


def test_a_member_has_its_own_weight_set_inside_the_composites() -> None:
    objectives = {"mcld": {"weight": 4, "ce": {"weight": 0.5}, "sample": {"weight": 2, "temperature": 3}}}
    norms: dict[str, float | None] = {"mcld.ce": 0.1, "mcld.instance": 0.2, "mcld.sample": 0.4, "mcld.category": 0.8}
    found = weights(objectives, norms, shares={"mcld.sample": 1.0})
    assert found.objectives == {"mcld": {"sample": {"weight": 0.125}}}  # 4 * 0.125 * 0.4 = 4 * 0.5 * 0.1
    assert found.shares_before["mcld.sample"] == pytest.approx(2 * 4 * 0.4 / (4 * 0.5 * 0.1))
    (changed,) = found.applied(objectives).values()
    assert changed["sample"] == {"temperature": 3.0, "weight": 0.125} and changed["weight"] == 4.0
    assert changed["ce"] == {"weight": 0.5}


@pytest.mark.parametrize(
    "norm, reason",
    [
        (None, "it does not reach the student's pooled vector"),
        (0.0, "its gradient is 0"),
        (math.nan, "its gradient is not finite"),
        (math.inf, "its gradient is not finite"),
        (1e-320, "its gradient is too small or too large"),
        (1e307, "its gradient is too small or too large"),
    ],
)
def test_what_cannot_be_balanced_keeps_its_weight(norm: float | None, reason: str) -> None:
    objectives = {"ce": {"weight": 1e-20}, "kd": {"weight": 0.9}, "rkd": {}}
    objectives["ce"]["weight"] = 1.0 if norm != 1e307 else 1e-300
    found = weights(objectives, {"ce": 0.2, "kd": norm, "rkd": 1.0}, share=1.0)
    assert found.kept == {"kd": reason} and found.weights["kd"] == 0.9
    assert list(found.objectives) == ["rkd"]
    assert Balanced.model_validate(found.model_dump(mode="json")) == found  # JSON holds no NaN
    shown = found.norms["kd"]
    assert shown == norm if norm is not None and math.isfinite(norm) else shown is None


@pytest.mark.parametrize("norm, why", [(None, "does not reach"), (0.0, "is 0"), (math.nan, "is not finite")])
def test_without_a_gradient_there_is_no_reference(norm: float | None, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"balance\.to: at cannot be the reference: .*{why}.*Name another part: kd$"):
        weights({"at": {}, "kd": {}}, {"at": norm, "kd": 1.0}, share=1.0, to="at")
