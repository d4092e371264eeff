"""Plain forms and digests: what they depend on, and what they do not."""

import hashlib
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdray.experiment import (
    Checkpointing,
    Data,
    Evaluate,
    Experiment,
    ModelSpec,
    Optimizer,
    Schedule,
    Student,
    Teacher,
    Train,
    digest_of,
    experiment_from_dict,
)
from kdray.experiment.part import is_operational
from kdray.experiment.search_part import At, Scheduler, Search, Searcher, Transfer

SEARCH = (Search, Searcher, Scheduler, At, Transfer)

VALUES = {
    "name": "x",
    "seed": 1,
    "data": {"source": "digits", "augment": [{"crop": {"pad": 2}}, "flip"], "mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]},
    "teacher": {"model": "big", "train": {"epochs": 20}},
    "student": {"model": "small", "params": {"width": 2}},
    "objectives": {"ce": {"weight": 1}, "kd": {"weight": 0.9, "temperature": 4}},
    "train": {"epochs": 10, "batch": 8, "optimizer": {"lr": 0.1}, "schedule": {"type": "multistep", "milestones": [5]}},
}


def build(values=VALUES):
    return experiment_from_dict(values)


def test_the_plain_form_holds_what_differs_from_the_defaults():
    train = Train(epochs=3, batch=8, optimizer=Optimizer(lr=1), log_every=7, checkpoint=Checkpointing(keep=9))
    whole = {"epochs": 3, "batch": 8, "optimizer": {"lr": 1.0}}
    assert train.canonical() == {**whole, "log_every": 7, "checkpoint": {"keep": 9}}
    assert train.canonical(results_only=True) == whole
    assert list(train.canonical()) == sorted(train.canonical())


def test_a_part_of_operational_fields_only_leaves_no_trace():
    e = build()
    assert "evaluate" not in e.model_copy(update={"evaluate": Evaluate(batch=7)}).canonical(results_only=True)


def test_none_that_is_no_default_is_kept():
    assert Checkpointing(every_minutes=None).canonical() == {"every_minutes": None}


def test_one_and_true_are_two_parameters():
    one, true = ModelSpec(model="m", params={"a": 1}), ModelSpec(model="m", params={"a": True})
    assert digest_of(one) != digest_of(true)


def test_the_plain_form_is_json():
    plain = build().canonical()
    assert json.loads(json.dumps(plain)) == plain


def test_the_digest_is_the_same_in_another_process_and_another_day():
    """Artifacts are found again by it: it may change with the format only, and then on purpose."""
    schedule = Schedule(type="multistep", milestones=[150, 180, 210])
    train = Train(epochs=240, batch=64, optimizer=Optimizer(lr=0.05), schedule=schedule)
    text = (
        '{"batch":64,"epochs":240,"optimizer":{"lr":0.05},"schedule":{"milestones":[150,180,210],"type":"multistep"}}'
    )
    assert digest_of(train) == hashlib.sha256(text.encode()).hexdigest()
    code = "from kdray.experiment import *; print(digest_of(Data(source='digits', augment=['flip'])))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest_of(Data(source="digits", augment=["flip"]))


def test_operational_fields_change_no_digest_and_all_others_do():
    e = build()
    base, whole = digest_of(e), digest_of(e, results_only=False)
    operational = {
        "name": "y",
        "storage": "s3://b",
        "cluster": {"workers": 2, "gpus_per_worker": 1},
        "evaluate": {"batch": 1},
        "train": {
            **VALUES["train"],
            "log_every": 1,
            "checkpoint": {"every_steps": 3, "keep": 1},
            "divergence_factor": None,
        },
        "data": {**VALUES["data"], "mode": "stream", "root": "/x", "resident_limit_bytes": 1, "samples": 5},
        "student": {**VALUES["student"], "alone": True},
        "teacher": {**VALUES["teacher"], "min_accuracy": 0.5},
    }
    for key, value in operational.items():
        changed = build({**VALUES, key: value})
        assert digest_of(changed) == base, key
        assert digest_of(changed, results_only=False) != whole, key
    results = {
        "seed": 2,
        "objectives": {"ce": {"weight": 1}, "kd": {"weight": 0.8, "temperature": 4}},
        "train": {**VALUES["train"], "batch": 16},
        "data": {**VALUES["data"], "augment": ["flip", {"crop": {"pad": 2}}]},
        "student": {"model": "small"},
        "teacher": {"model": "big"},
    }
    for key, value in results.items():
        assert digest_of(build({**VALUES, key: value})) != base, key


def test_what_is_operational():
    """The list is a promise: a result field that lands here would let two different results share one artifact."""
    listed = {
        f"{part.__name__}.{name}"
        for part in (
            Experiment,
            Data,
            Train,
            Checkpointing,
            Optimizer,
            Schedule,
            Teacher,
            Student,
            ModelSpec,
            Evaluate,
            *SEARCH,
        )
        for name in part.model_fields
        if is_operational(part, name)
    }
    assert listed == {
        "Experiment.name",
        "Experiment.cluster",
        "Experiment.storage",
        "Data.pack",
        "Data.root",
        "Data.samples",
        "Data.mode",
        "Data.engine",
        "Data.resident_limit_bytes",
        "Data.max_bad_fraction",
        "Train.log_every",
        "Train.divergence_factor",
        "Checkpointing.every_steps",
        "Checkpointing.every_epochs",
        "Checkpointing.every_minutes",
        "Checkpointing.keep",
        "Teacher.min_accuracy",
        "Student.alone",
        "Evaluate.batch",
        "Experiment.search",
        "Search.trials",
        "Search.concurrent",
        "Search.max_hours",
        "Search.mlflow",
        "Transfer.check",
    }


def test_digests_of_plain_values_and_of_parts_inside_them():
    data = Data(source="digits")
    assert digest_of({"b": 1, "a": [data]}) == digest_of({"a": ({"source": "digits"},), "b": 1})
    assert digest_of(1) != digest_of(1.0)
    assert digest_of("é") != digest_of("e")
    for bad in (float("nan"), object(), {1, 2}):
        with pytest.raises((TypeError, ValueError)):
            digest_of({"a": bad})


def shuffled(value, order):
    """The same value with the keys of every map in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], order) for key in order(sorted(value))}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


def with_defaults(part, value, pick):
    """The same value with some default-valued keys written out, all through the parts."""
    value = dict(value)
    for name, field in part.model_fields.items():
        held = getattr(part, name)
        if (
            name not in value
            and not field.is_required()
            and pick()
            and held == field.get_default(call_default_factory=True)
        ):
            value[name] = held.model_dump() if hasattr(held, "model_dump") else held
        elif isinstance(value.get(name), dict) and hasattr(held, "model_fields"):
            value[name] = with_defaults(held, value[name], pick)
    return value


@given(st.data())
def test_the_digest_knows_no_key_order_and_no_default_valued_keys(data):
    e = build()
    values = {**VALUES, "train": dict(VALUES["train"])}
    values = with_defaults(e, values, lambda: data.draw(st.booleans()))
    values = shuffled(values, lambda keys: data.draw(st.permutations(keys)))
    again = build(values)
    assert again == e
    assert digest_of(again) == digest_of(e)
    assert digest_of(again, results_only=False) == digest_of(e, results_only=False)


@given(st.sampled_from(["lr", "weight_decay", "momentum"]), st.floats(1e-6, 0.99), st.floats(1e-6, 0.99))
def test_digests_are_equal_exactly_when_the_values_are(key, left, right):
    a, b = (Optimizer(**{"lr": 0.5, key: value}) for value in (left, right))
    assert (digest_of(a) == digest_of(b)) == (left == right)
