"""Copy a run's record beside the benchmarks, with the folders of the machine that it ran on given names.

    python benchmarks/publish.py runs/runs/NAME/record.json benchmarks/records/NAME.json --name /my/data=DATA

Nothing else is changed. Refuses a record in which an absolute local path is left.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path


def publish(text: str, names: list[tuple[str, str]]) -> str:
    """`text` of a record with every folder replaced by its name; SystemExit when a local path remains."""
    for folder, name in sorted(names, key=lambda pair: -len(pair[0])):
        text = text.replace(folder.rstrip("/"), name)
    values = json.loads(text)
    command = values.get("command")
    # "artifacts/..." and "experiments/..." are relative; anything from the root names a machine.
    left = [match for match in re.findall(r'"(/[^"]+)"', text) if match.count("/") > 1]
    left += [word for word in command or [] if "=/" in word]
    if left:
        sys.exit(f"a path of this machine is left: {left[0]}; name its folder with --name FOLDER=NAME")
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Publish one record."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("record", type=Path)
    cli.add_argument("target", type=Path)
    cli.add_argument("--name", action="append", default=[], metavar="FOLDER=NAME")
    args = cli.parse_args()
    names = [tuple(item.rsplit("=", 1)) for item in args.name]
    args.target.write_text(publish(args.record.read_text(), [(folder, name) for folder, name in names]))


if __name__ == "__main__":
    main()
