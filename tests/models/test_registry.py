from __future__ import annotations

import pytest
from torch import nn

from kdray.errors import ModelError
from kdray.models import registry


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.entries()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))


def test_a_decorator_is_all_it_takes(clean) -> None:
    @registry.register_model("tiny", source="here", layout="here", alias="Tiny", depth=3)
    def tiny(num_classes: int, *, depth: int, bias: bool = True) -> nn.Module:
        return nn.Linear(depth, num_classes, bias=bias)

    entry = registry.find("Tiny")
    assert entry is registry.find("tiny") is registry.entries()["tiny"]
    assert entry.accepted == ["bias"]
    assert entry(7, {"bias": False}).bias is None
    assert {"tiny", "Tiny"} <= set(registry.known_names())
    with pytest.raises(ModelError, match=r"tiny knows no parameter 'baas' \(did you mean 'bias'\?\)"):
        entry(7, {"baas": 1})


def test_a_name_is_taken_once(clean) -> None:
    for options in ({"name": "resnet20"}, {"name": "new", "alias": "ResNet50"}):
        name = options.pop("name")
        with pytest.raises(ValueError, match="two networks are registered"):
            registry.register_model(name, source="", layout="", **options)(nn.Linear)


def test_every_family_says_where_it_comes_from() -> None:
    for entry in registry.entries().values():
        assert entry.source and entry.layout and entry.accepted == ["width"]
    assert registry.find("resnet18") is None
