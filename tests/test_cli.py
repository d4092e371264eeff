"""`kdray`: which command is meant, and one line for every error."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest
from rich.console import Console

from kdray import cli
from kdray.errors import DataError


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A command `shard` that only notes its arguments, or raises what it is told to."""
    said: list[list[str]] = []

    def main(argv: list[str], console: Console) -> int:
        assert isinstance(console, Console)
        said.append(argv)
        if argv == ["bad"]:
            raise DataError("is no source", where="bad", fix="Name another")
        if argv == ["stopped"]:
            raise KeyboardInterrupt
        if argv == ["bug"]:
            raise ZeroDivisionError("oh")
        return 7

    module = types.ModuleType("kdray_test_command")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "shard", module.__name__)
    return said


def test_a_command_gets_its_arguments(heard: list[list[str]]) -> None:
    assert cli.main(["shard", "from", "--to", "there"]) == 7
    assert heard == [["from", "--to", "there"]]


@pytest.mark.parametrize(
    ("argument", "code", "said"),
    [
        ("bad", 2, "kdray: bad: is no source. Name another"),
        ("stopped", 130, "stopped at once"),
        ("bug", 1, "unexpected ZeroDivisionError: oh"),
    ],
)
def test_errors_are_one_line_and_a_code(
    heard: list[list[str]], capsys: pytest.CaptureFixture[str], argument: str, code: int, said: str
) -> None:
    assert cli.main(["shard", argument]) == code
    err = capsys.readouterr().err
    assert said in err.splitlines()[-1]
    assert ("Traceback" in err) == (argument == "bug")


@pytest.mark.parametrize("prefix", [[], ["run"]])
def test_anything_else_is_an_experiment(prefix: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*prefix, "no-such.yaml"]) == 2
    assert "no-such.yaml" in capsys.readouterr().err


def test_python_m_kdray() -> None:
    done = subprocess.run([sys.executable, "-m", "kdray", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "kdray shard SOURCE DEST" in " ".join(done.stdout.split())
