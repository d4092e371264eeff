"""What every storage error must be."""

from __future__ import annotations

import pytest

from kdray.errors import KdrayError


def one_line(error: pytest.ExceptionInfo[KdrayError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
