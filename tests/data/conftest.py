"""The small sets that several files read."""

from __future__ import annotations

import pytest

from kdray.data.manifest import Manifest

from .feeds import N
from .small import photographs, squares

BAD = (7, 40, 41, 202)


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Manifest:
    return squares(tmp_path_factory.mktemp("squares") / "set", N)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Manifest:
    return photographs(tmp_path_factory.mktemp("photographs") / "set", 90)


@pytest.fixture(scope="session")
def spoiled(tmp_path_factory) -> Manifest:
    return squares(tmp_path_factory.mktemp("spoiled") / "set", N, bad=BAD)
