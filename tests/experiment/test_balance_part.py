"""`balance:` as it stands in a file."""

from __future__ import annotations

from typing import Any

import pytest

from kdray.errors import ConfigError
from kdray.experiment import Balance, Experiment, digest_of, experiment_from_dict, to_yaml
from kdray.experiment.yaml_text import flow, parse

BASE = {
    "data": {"source": "digits"},
    "teacher": {"model": "resnet14"},
    "student": {"model": "resnet8"},
    "objectives": {"ce": {}, "kd": {}, "clmkd.class_guided": {}},
    "train": {"epochs": 2, "batch": 32, "optimizer": {"lr": 0.1}},
}


def experiment(balance: Any = None, sets: tuple[str, ...] = ()) -> Experiment:
    return experiment_from_dict({**BASE, **({} if balance is None else {"balance": balance})}, sets=sets)


def test_none_is_the_default_and_no_part_of_a_digest() -> None:
    plain = experiment()
    assert plain.balance is None and "balance" not in plain.canonical()
    assert digest_of(plain) != digest_of(experiment({"share": 1.0}))


@pytest.mark.parametrize(
    "balance, sets",
    [
        ({"shares": {"kd": 0.5, "clmkd.class_guided": 2}, "to": "ce", "batches": 4}, ()),
        (
            {"shares": {"kd": 0.25, "clmkd.class_guided": 2}},
            ("balance.shares.kd=0.5", "balance.batches=4", "balance.to=ce"),
        ),
        (None, ("balance={shares: {kd: 0.5, clmkd.class_guided: 2}, batches: 4, to: ce}",)),
    ],
)
def test_every_way_to_write_it(balance: Any, sets: tuple[str, ...]) -> None:
    found = experiment(balance, sets)
    wanted = Balance(shares={"kd": 0.5, "clmkd.class_guided": 2.0}, to="ce", batches=4)
    assert found.balance == wanted
    (document,) = [parse(to_yaml(found), "printed")]
    assert experiment_from_dict(document.value) == found


def test_one_share_from_the_command_line() -> None:
    assert experiment(sets=("balance.share=0.5",)).balance == Balance(share=0.5)
    assert experiment({"share": 2}, ("balance=null",)).balance is None


@pytest.mark.parametrize(
    "balance, said",
    [
        ({}, "balance: says no share. Write {share: 0.5} for all parts, or {shares: {kd: 0.5}}"),
        ({"shares": {}}, "balance: says no share"),
        ({"share": 1.0, "shares": {"kd": 1.0}}, "balance.share: share and shares are both given"),
        ({"share": 0}, "balance.share: 0 is out of range. Give a number above 0"),
        ({"shares": {"kd": 0.0}}, "balance.shares.kd: 0.0 is out of range. Give a number above 0"),
        ({"shares": {"kd": "half"}}, 'balance.shares.kd: wants a number, but "half" stands there'),
        ({"shares": ["kd"]}, 'balance.shares: wants a map from parts to shares, but ["kd"] stands there'),
        ({"share": 1.0, "batches": 0}, "balance.batches: 0 is out of range"),
        ({"share": 1.0, "batch": 2}, "balance.batch: unknown key 'batch' (did you mean 'batches'?)"),
        (0.5, "balance: wants a map of keys, but 0.5 stands there"),
    ],
)
def test_what_it_cannot_say(balance: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(balance)
    assert said in str(caught.value)


def test_it_is_of_a_student() -> None:
    with pytest.raises(ConfigError, match=r"balance: is of a student's objectives, and there is no student"):
        experiment_from_dict({**BASE, "student": None, "balance": {"share": 1.0}})


def test_one_line_of_yaml_is_read_back() -> None:
    value = {"clmkd": {"kd": {"weight": 1e-05}}, "clmkd.class_guided": {"weight": 27.98}, "no": {"weight": 3.0}}
    text = flow(value)
    assert "\n" not in text and parse(text, "line").value == value
    assert "\n" not in flow({f"objective_{n}": {"weight": n / 7} for n in range(40)})
