"""Several commands in one process, one after the other: python -m tests.cluster.several FILE OUT

FILE holds a JSON list of argument lists, OUT receives a list of {code, record}. They share imports and a connection.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kdray.pipeline import execute
from kdray.run import main


def run_all(commands: list[list[str]]) -> list[dict[str, object]]:
    """Run every command to its end, and tell what came of it."""
    records: list[str] = []
    run_plan = execute.run_plan

    def noted(*arguments, **options):  # type: ignore[no-untyped-def]
        record = run_plan(*arguments, **options)
        records.append(record["uri"])
        return record

    execute.run_plan = noted
    done: list[dict[str, object]] = []
    for arguments in commands:
        records.clear()
        code = main(arguments)
        done.append({"code": code, "record": next(iter(records), None)})
    return done


if __name__ == "__main__":
    source, target = sys.argv[1:]
    Path(target).write_text(json.dumps(run_all(json.loads(Path(source).read_text()))))
