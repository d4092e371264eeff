"""`kdray`: one command for everything. `kdray EXPERIMENT.yaml` is `python -m kdray.run EXPERIMENT.yaml`; beside it:

kdray shard SOURCE DEST        pack a collection of images, and `kdray shard verify URI`
kdray data show URI            look at a data set before days of training
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import Console

from kdray.errors import ConfigError, KdrayError

INTERRUPTED = 130
DEBUG = "KDRAY_DEBUG"  # set to anything: every error shows its traceback
# Imported when asked for: a typo in an experiment is told in milliseconds.
COMMANDS = {"shard": "kdray.data.pack.command", "data": "kdray.report.data_command"}


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, where="command line", fix=f"{self.prog} --help lists what there is")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `argv` (default: this process's); returns its exit code, see `guarded`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        module, *rest = COMMANDS[arguments[0]], *arguments[1:]
        return guarded(lambda console: int(importlib.import_module(module).main(rest, console)))
    from kdray.run import main as run

    return run(arguments[1:] if arguments[:1] == ["run"] else arguments)


def guarded(command: Callable[[Console], int]) -> int:
    """Run `command`, its errors told in one line: 0 done, 2 bad input, 1 failed, 130 interrupted."""
    try:
        return command(Console(soft_wrap=False, width=None if sys.stdout.isatty() else 140))
    except KdrayError as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        print(f"kdray: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("kdray: stopped at once; the same command goes on from what is saved", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # a bug: what to report must not be lost
        traceback.print_exc()
        print(f"kdray: unexpected {type(error).__name__}: {error} (its traceback stands above)", file=sys.stderr)
        return 1
