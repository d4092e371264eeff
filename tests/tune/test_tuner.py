"""What Ray Tune is told, and what it must not tell."""

from __future__ import annotations

import pytest
from ray import tune
from ray.tune.execution.class_cache import _ActorClassCache

from kdray.tune.tuner import KEYS, keep_keys_out


def test_no_key_is_in_the_runtime_environment_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, "secret")
    keep_keys_out()
    actor = _ActorClassCache().get(tune.Trainable)
    told = actor._default_options["runtime_env"]["env_vars"]
    assert told and "secret" not in told.values()
