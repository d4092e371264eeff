"""The Dockerfile, the scripts of `ray up` and the environment that all nodes get."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster_files.files import FOLDER, NODES_ENVIRONMENT, ROOT, SECRETS

DOCKERFILE = (FOLDER / "Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """(NAME, the rest) of each instruction of a Dockerfile, without comments, on one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "hadolint"
    return subprocess.run([program, "-"], input=text, capture_output=True, text=True, timeout=60)


def test_hadolint_finds_nothing() -> None:
    told = hadolint(DOCKERFILE)
    assert (told.returncode, told.stdout) == (0, "")


def test_hadolint_finds_what_is_wrong() -> None:
    assert "DL3007" in hadolint(re.sub(r"^FROM .*", "FROM python:latest", DOCKERFILE, flags=re.MULTILINE)).stdout


def test_what_is_copied_is_there_and_goes_to_the_builder() -> None:
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored
    sources = {word for name, rest in instructions(DOCKERFILE) if name == "COPY" for word in rest.split()[:-1]}
    assert all((ROOT / path).exists() for path in sources)
    assert {path.split("/")[0] for path in sources} == let_through


def test_the_image_is_pinned_and_runs_as_nobody() -> None:
    found = instructions(DOCKERFILE)
    (base,) = (rest for name, rest in found if name == "FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    installs = [rest for name, rest in found if name == "RUN" and "pip install" in rest]
    assert all("--constraint requirements.lock" in rest or "--no-deps" in rest for rest in installs)
    assert [rest for name, rest in found if name == "USER"] == ["1000"]
    assert "useradd" in DOCKERFILE and "--uid 1000" in DOCKERFILE


def test_code_comes_after_what_it_needs() -> None:
    """So a change of code makes no layer of PyTorch anew."""
    found = instructions(DOCKERFILE)
    heavy = next(i for i, (name, rest) in enumerate(found) if name == "RUN" and "--constraint" in rest)
    code = next(i for i, (name, rest) in enumerate(found) if (name, rest) == ("COPY", "kdray kdray"))
    assert heavy < code


def test_the_image_has_the_environment() -> None:
    (rest,) = (rest for name, rest in instructions(DOCKERFILE) if name == "ENV")
    environment = dict(word.split("=", 1) for word in shlex.split(rest))
    assert {name: environment.get(name) for name in NODES_ENVIRONMENT} == NODES_ENVIRONMENT


def test_nodes_of_ray_up_have_the_environment(tmp_path: Path) -> None:
    command = f". {shlex.quote(str(FOLDER / 'node.sh'))} && env -0"
    least = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    told = subprocess.run(["bash", "-c", command], env=least, capture_output=True, text=True, check=True, timeout=30)
    environment = dict(entry.split("=", 1) for entry in told.stdout.split("\0") if entry)
    assert {name: environment.get(name) for name in NODES_ENVIRONMENT} == NODES_ENVIRONMENT


def test_nodes_of_ray_up_find_kdrays_python_first(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=60)
    command = f". {shlex.quote(str(FOLDER / 'node.sh'))} && command -v python"
    least = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    told = subprocess.run(["bash", "-c", command], env=least, capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout.strip() == str(tmp_path / "venv" / "bin" / "python")


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The home folder of a node, its checkout mounted, with a uv that writes down what it is asked for."""
    for name in ("pyproject.toml", "requirements.lock", "cluster/install.sh"):
        target = tmp_path / "kdray" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    uv = tmp_path / ".uv" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text('#!/bin/sh\necho "$*" >> ~/asked\n[ "$1" = venv ] && mkdir -p ~/venv\nexit 0\n')
    uv.chmod(0o755)
    return tmp_path


def install(home: Path) -> list[str]:
    """Run install.sh; what it has asked uv for until now."""
    script = home / "kdray" / "cluster" / "install.sh"
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    subprocess.run(["bash", str(script)], env=environment, check=True, timeout=60)
    return (home / "asked").read_text().splitlines()


def test_install_takes_the_versions_of_the_lock_once(node: Path) -> None:
    first = install(node)
    assert first == [
        f"venv --quiet --clear --python 3.11 {node}/venv",
        f"pip install --quiet --python {node}/venv/bin/python --constraint requirements.lock --editable .[timm,gcp]",
    ]
    assert install(node) == first
    with (node / "kdray" / "requirements.lock").open("a") as lock:
        lock.write("# another\n")
    assert len(install(node)) == 2 * len(first)
    assert (node / ".bashrc").read_text().count("node.sh") == 1


def test_install_stops_at_the_first_error(node: Path) -> None:
    (node / ".uv" / "bin" / "uv").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        install(node)
    assert caught.value.returncode == 3 and not (node / "venv" / ".kdray").exists()


@pytest.mark.parametrize("path", sorted(p for p in FOLDER.rglob("*") if p.is_file()), ids=lambda p: p.name)
def test_no_file_has_secrets(path: Path) -> None:
    assert SECRETS.findall(path.read_text()) == []


@pytest.mark.parametrize("secret", ["AKIA" + "A" * 16, "0f" * 32, "-----BEGIN RSA PRIVATE KEY-----"])
def test_secrets_would_be_seen(secret: str) -> None:
    assert SECRETS.search(f"key: {secret}")
