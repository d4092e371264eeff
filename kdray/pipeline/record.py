"""The machine-readable record of a run: everything needed to say what was measured, where, with what."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Any

import torch

import kdray
from kdray.data.dataset import Dataset, Split
from kdray.pipeline.plan import Plan
from kdray.pipeline.shelf import RUNS
from kdray.store import Store

PACKAGES = ("torch", "torchvision", "ray", "pyarrow", "numpy", "opencv-python-headless", "pydantic")


def start_record(plan: Plan, command: list[str]) -> dict[str, Any]:
    """The record of a run that begins now; stages are added as they end.

    `planned` are the artifacts that the run will use, by stage. `seed` and `data` are those of the (first) experiment;
    with variants, each says its own in `variants`, beside the names of its stages by kind. `matrix` has the coordinates
    of those that are its cells, the baseline and the published numbers.
    """
    comparison, first = plan.comparison, plan.members[0]
    variants = {
        member.variant: {
            "stages": member.names,
            "seed": member.experiment.seed,
            "data": data_facts(member.dataset),
        }
        for member in plan.members
        if member.variant
    }
    return {
        "run_id": plan.run_id,
        "name": comparison.name,
        "digest": plan.digest,
        "uri": Store(comparison.storage).path_uri(f"{RUNS}/{plan.run_id}/record.json"),
        "command": command,
        "status": "running",
        "started": now(),
        "finished": None,
        "seed": first.experiment.seed,
        "experiment": comparison.plain(),
        "versions": versions(),
        "hardware": hardware(),
        "data": data_facts(first.dataset),
        **({"variants": variants} if variants else {}),
        **({} if comparison.matrix is None else {"matrix": comparison.matrix.plain()}),
        "planned": {stage.name: stage.spec.folder for stage, _ in plan.stages},
        "stages": [],
    }


def write_record(store: Store, record: dict[str, Any]) -> str:
    """Write the record whole into the run's folder; return its URI."""
    path = f"{RUNS}/{record['run_id']}/record.json"
    store.write_json(path, record)
    return store.path_uri(path)


def data_facts(dataset: Dataset) -> dict[str, Any]:
    """Facts of each split that is there."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {name: split_facts(split) for name, split in splits.items() if split is not None}


def split_facts(split: Split) -> dict[str, Any]:
    """Where a split lies, how large it is, the digest of its shards, and how many of its labels noise changed."""
    manifest = split.manifest
    noise = {} if split.labels_changed is None else {"labels_changed": split.labels_changed}
    facts: dict[str, Any] = {
        "uri": manifest.uri,
        "images": len(split),
        "of": manifest.num_samples,
        "fingerprint": split.fingerprint,
    }
    if manifest.packing is not None:
        facts["packed"] = {"kind": manifest.packing.kind, "bad_files": len(manifest.bad)} | {
            name: getattr(manifest.packing, name)
            for name in ("order", "short_side", "quality", "source_bytes", "kdray")
        }
    return facts | noise


def versions() -> dict[str, str | None]:
    """Versions of what computes, and the commit that kdray itself stands at when it runs from a checkout."""
    found: dict[str, str | None] = {"kdray": kdray.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found["commit"] = commit()
    return found


def commit() -> str | None:
    """Commit of the checkout that this kdray was imported from, with `+` when it has changes; None elsewhere."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(kdray.__file__)))
    if not os.path.exists(os.path.join(here, ".git")):  # a file in a worktree
        return None
    try:
        head = subprocess.run(["git", "-C", here, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run(["git", "-C", here, "status", "--porcelain"], capture_output=True, text=True)
    except OSError:
        return None
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "") if head.returncode == 0 else None


def hardware() -> dict[str, Any]:
    """CPU, memory and GPUs of the machine that the command runs on."""
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "gpus": gpus,
        "platform": sys.platform,
    }


def cpu_model() -> str:
    """Model name of the CPU."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def now() -> str:
    """Time of day in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
