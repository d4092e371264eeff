from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from kdray.data import freed
from kdray.data.freed import give_back


def own_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


def test_what_small_arrays_left_free_goes_back_to_the_system() -> None:
    if platform.libc_ver()[0] != "glibc":
        assert give_back() is None
        return
    many = [np.ones(4000, np.uint8) for _ in range(20_000)]
    between = many[::100]  # glibc alone gives nothing back from between them
    del many
    before = own_bytes()
    give_back()
    assert before - own_bytes() > 40e6 and all(one.all() for one in between)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed, "_trim", lambda: None)
    give_back()
