"""The commands of cluster/README.md: what they name is there, and kdray and Ray read them."""

from __future__ import annotations

import re
import shlex
from itertools import chain

import click
import pytest
import yaml
from ray.dashboard.modules.job.cli import job_cli_group
from ray.scripts.scripts import cli as ray_cli

from kdray.experiment import load_comparison
from kdray.run import parser
from tests.cluster_files.files import CLOUDS, FOLDER, ROOT, load, readme_commands

TEXT = (FOLDER / "README.md").read_text()


def kdray_commands() -> list[list[str]]:
    """Words after `python -m kdray.run` wherever one stands: README, a job's entrypoint, the heads of the files."""
    lines = readme_commands("python") + readme_commands("ray job submit")
    lines.append(shlex.split(load("rayjob.yaml")["spec"]["entrypoint"]))
    return [words[words.index("kdray.run") + 1 :] for words in lines if "kdray.run" in words]


@pytest.mark.parametrize("words", kdray_commands(), ids=" ".join)
def test_kdray_reads_its_commands(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where they are said to be run
    options = parser().parse_args(words)
    cluster = load_comparison(options.experiment, options.sets, options.variant).cluster
    assert cluster.workers == 8 and cluster.gpus_per_worker == 1
    if not options.dry_run:
        assert (cluster.cpus_per_worker, cluster.data_cpus) == (2, 72)


def test_there_are_commands_of_each_kind() -> None:
    assert len(kdray_commands()) == 3
    for program in (
        "ray up",
        "ray dashboard",
        "ray job submit",
        "ray down",
        "aws iam",
        "gcloud",
        "kubectl apply",
        "docker build",
    ):
        assert readme_commands(program), program


@pytest.mark.parametrize("words", readme_commands("ray"), ids=" ".join)
def test_ray_reads_its_commands(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed to the end, options and all; nothing is run."""
    monkeypatch.chdir(ROOT)
    command, context = ray_cli, click.Context(ray_cli, info_name="ray")
    left = words[1:]
    while isinstance(command, click.Group):
        name, command, left = command.resolve_command(context, left)
        assert command is not None and name is not None
        context = click.Context(command, info_name=name, parent=context)
    assert command is not ray_cli and command is not job_cli_group
    command.parse_args(context, left)


def test_what_the_commands_name_is_there() -> None:
    words = chain.from_iterable(
        readme_commands(program) for program in ("ray", "aws", "kubectl", "docker", "python", "pip")
    )
    named = {word.removeprefix("file://") for line in words for word in line}
    paths = {word for word in named if re.match(r"(cluster|experiments)/", word)}
    assert {"cluster/aws.yaml", "cluster/gcp.yaml", "cluster/Dockerfile", "cluster/iam/nodes.json"} <= paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_links_lead_somewhere() -> None:
    headings = {path: _anchors(path.read_text()) for path in (FOLDER / "README.md", ROOT / "docs" / "storage.md")}
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        file = (FOLDER / path).resolve() if path else FOLDER / "README.md"
        assert file.exists(), target
        assert not anchor or anchor in headings[file], target


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_file_is_told_of() -> None:
    untold = [p.name for p in FOLDER.iterdir() if f"]({p.name})" not in TEXT and p.name != "README.md"]
    assert untold == ["Dockerfile.dockerignore"]


def test_prices_are_of_the_machines_that_the_files_start() -> None:
    section = TEXT[TEXT.index("## What it costs") :]
    for name, field in zip(CLOUDS, ("InstanceType", "machineType"), strict=True):
        for each in load(name)["available_node_types"].values():
            assert f"| {each['node_config'][field]} |" in section
    rows = [[cell.strip() for cell in line.split("|")] for line in section.splitlines() if line.startswith("| ")]
    price = {row[1].split(",")[0]: (float(row[3]), float(row[5])) for row in rows if re.match(r"[\d.]+$", row[3])}
    for cloud in (0, 1):
        head, gpu, disk = (price[name][cloud] for name in ("head", "GPU node", "disk of a node"))
        assert price["the cluster when idle"][cloud] == pytest.approx(head + disk, abs=0.005)
        assert price["8 GPUs"][cloud] == pytest.approx(head + 2 * gpu + 3 * disk, abs=0.05)


def test_the_pod_monitor_finds_the_port() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    (endpoint,) = yaml.safe_load(block)["spec"]["podMetricsEndpoints"]
    cluster = load("raycluster.yaml")["spec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        (port,) = (p["containerPort"] for p in container["ports"] if p["name"] == endpoint["port"])
        assert group["rayStartParams"]["metrics-export-port"] == str(port)
