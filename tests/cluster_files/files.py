"""The files of cluster/, parsed, and what all tests of them know."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from kdray.train.environment import DEFAULTS, JOINED

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
CLOUDS = ("aws.yaml", "gcp.yaml")
# What kdray wants on nodes of a cluster that it joins, and time for a job that is stopped to save its state.
NODES_ENVIRONMENT = DEFAULTS | JOINED | {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
# Keys of AWS and Google, private keys, and tokens of Ray (64 hexadecimal digits or a UUID).
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{35}|-----BEGIN|aws_secret_access_key|[0-9a-f]{64}"
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    re.IGNORECASE,
)


def load(name: str) -> Any:
    """The one document of a YAML file of cluster/."""
    return yaml.safe_load((FOLDER / name).read_text())


def load_all(name: str) -> list[Any]:
    """All documents of a YAML file of cluster/."""
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def ray_commands(config: dict[str, Any]) -> list[str]:
    """Every `ray start ...` of a cluster file of `ray up`, the head's first."""
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


def readme_commands(program: str) -> list[list[str]]:
    """The indented commands of cluster/README.md that begin with `program`, as words; lines that end in \\ go on."""
    text = (FOLDER / "README.md").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [shlex.split(line, comments=True) for line in lines if re.match(rf"{re.escape(program)}(\s|$)", line)]
