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
