"""A user's own code is part of what makes a result."""

from pathlib import Path

import pytest

from kdray.pipeline.user_code import references, source_digests


def test_references_are_those_with_a_colon() -> None:
    objectives = {"ce": {}, "mine": {"type": "own.losses:Mine", "weight": 2}, "own.more:Other": {}}
    assert references(["resnet8", "own.nets:net"], objectives) == ["own.losses:Mine", "own.more:Other", "own.nets:net"]


def test_an_edited_module_has_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "edited_net.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    module.write_text("def net(num_classes): ...\n")
    before = source_digests(["edited_net:net"])
    assert source_digests(["edited_net:net"]) == before and len(before["edited_net:net"]) == 64
    module.write_text("def net(num_classes): return None\n")
    assert source_digests(["edited_net:net"]) != before


def test_what_cannot_be_found_is_left_to_the_one_who_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text("1 / 0")
    assert source_digests(["nowhere:f", "no.where.at.all:f", "broken_package.nets:f", ".:f", ":f"]) == {}
