"""`ray job submit` as the README says, to a head with token authentication."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import kdray
from tests.cluster.command import BIN, REPOSITORY, Process, running
from tests.cluster.conftest import Head


def checkout(folder: Path) -> Path:
    """A copy of what a user has checked out, with data and runs in it that are no part of a job."""
    for name in ("kdray", "experiments"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".rayignore"):
        if (REPOSITORY / name).exists():
            shutil.copy(REPOSITORY / name, folder / name)
    for name in ("data/cifar100/train.parquet", "runs/artifacts/old/model.safetensors", ".venv/lib/torch.so"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(bytes(3 << 20))
    here = folder / "kdray" / "__init__.py"
    here.write_text(here.read_text().replace(kdray.__version__, "0.0.0+job"))  # to know it again
    return folder


def test_quickstart_as_a_job(head: Head, clean_env: dict[str, str], tmp_path: Path) -> None:
    folder, store = checkout(tmp_path / "checkout"), tmp_path / "store"
    env = clean_env | {"RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": head.dashboard}
    run = ["python", "-m", "kdray.run", "experiments/quickstart.yaml", "--smoke"]
    sets = [f"storage={store}", f"data.root={tmp_path / 'data'}", "student.alone=false"]
    options = [part for each in sets for part in ("--set", each)]
    submit = [BIN / "ray", "job", "submit", "--working-dir", ".", "--", *run, *options]
    with running(Process(submit, folder, env, tmp_path / "submit.log")) as command:
        assert command.wait() == 0, command.output
        assert "teacher: resnet20" in command.output and "student distilled: resnet8" in command.output
        assert "record: " in command.output
        assert "Traceback (" not in command.output
    (path,) = store.glob("smoke/runs/*/record.json")
    record = json.loads(path.read_text())
    assert record["versions"]["kdray"] == "0.0.0+job", "the job did not run what was submitted"
    assert [stage["stage"] for stage in record["stages"]] == ["teacher", "student"]
    for stage in record["stages"]:
        assert (Path(stage["artifact"]) / "model.safetensors").exists()
    packages = head.folder.glob("session_latest/runtime_resources/working_dir_files/*")
    (unpacked,) = [at for at in packages if at.is_dir()]
    assert {at.name for at in unpacked.iterdir()} <= {"kdray", "experiments", ".gitignore", ".rayignore"}
    assert sum(at.stat().st_size for at in unpacked.rglob("*") if at.is_file()) < 2 << 20


def test_job_without_the_token_is_refused(head: Head, clean_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    env = clean_env | {
        "HOME": str(tmp_path / "home"),
        "RAY_AUTH_MODE": "disabled",
        "RAY_API_SERVER_ADDRESS": head.dashboard,
    }
    submit = [BIN / "ray", "job", "submit", "--", "python", "--version"]
    with running(Process(submit, tmp_path, env, tmp_path / "submit.log")) as command:
        assert command.wait() != 0, command.output
        assert "401" in command.output or "authentication" in command.output.lower()
