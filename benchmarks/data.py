"""How fast images become batches: kdray's stream beside what users have today, and beside the bare decoder.

    python benchmarks/data.py --data SHARDS --out benchmarks/records/data-cpu.json

SHARDS is a small set of real photographs (a Parquet folder or glob). They are measured as they are, repeated to about a
third of `--images` a pass, and `--images` photo-sized JPEGs are made of them (see `photos.py`). Every arm of
`data_arms/` is a process of its own on 2 cores, some also on 1; they take turns, round after round, and are compared
inside a round. RandomResizedCrop(224) and flip, batches of 64. An arm's first passes warm it up, the others are timed
together. CPU seconds are user and system of all processes of the arm (with Ray's own), those of the S3 server apart;
peak memory is the sum of PSS in the first pass. Two rounds take about an hour; leave the machine alone meanwhile.

WebDataset and LitData must be installed, or lie in the folder given by `--extra`; what is not there is left out, and
the record says so. `--only`, `--cores` and `--sets` measure a part. A command that is given again goes on where it was
cut off: what stands in `--out`, measured with the same settings, is kept.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import data_layouts
from data_cases import ARMS, Arm, ratios
from data_server import Server, serving

sys.path.insert(0, str(Path(__file__).parent / "data_arms"))
from harness import children

from kdray.pipeline.record import commit, hardware, now, versions

HERE = Path(__file__).parent
GIVEN_SHARE = 0.6  # of --images: what the given photographs are repeated to
PER_IMAGE = ("cpu_s_per_image", "server_cpu_s_per_image")
ARM_TIMEOUT_S = 300
PSS_EVERY_S = 0.5
WARM_S = 12.0  # of passes before those that are timed: Ray's own processes take that long to become quiet


def missing(arm: Arm, extra: str) -> bool:
    """Whether the package that an arm needs is not there."""
    code = f"import {arm.needs or 'sys'}"
    return (
        subprocess.run([sys.executable, "-c", code], env=_environment(extra), stderr=subprocess.DEVNULL).returncode != 0
    )


def _environment(extra: str) -> dict[str, str]:
    path = os.pathsep.join(part for part in (str(HERE.parent), os.environ.get("PYTHONPATH", ""), extra) if part)
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "RAY_AUTH_MODE": "token"}


def measure(
    arm: Arm, root: str, images: int, passes: int, cpus: list[int], args: argparse.Namespace, server: Server | None
) -> dict:
    """Run one arm once: what it says of all passes but the first, with the peak memory of that one."""
    command = [sys.executable, str(HERE / "data_arms" / f"{arm.script}.py"), "--root", root, "--images", str(images)]
    command += ["--batch", str(args.batch), "--passes", str(passes), "--seed", str(args.seed), "--option", arm.option]
    command += ["--warm-s", str(args.warm_s), "--cpus", ",".join(map(str, cpus)), "--started", repr(time.time())]
    environment = _environment(args.extra)
    if server is not None:
        command += ["--server", *map(str, server.processes())]
        environment |= server.environment
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        timer = threading.Timer(ARM_TIMEOUT_S, process.kill)
        timer.start()
        try:
            with peak_pss(process.pid) as peak:
                first = process.stdout.readline() if process.stdout else ""
            rest = process.stdout.read() if process.stdout else ""
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
        lines = [json.loads(line) for line in (first + rest).splitlines() if line.startswith('{"pass"')]
        if code or len(lines) != passes:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)}\nended with {code}:\n{errors.read()[-3000:]}")
    check(lines, images, args.batch * len(cpus))
    warm, timed = lines[0], lines[1:]
    total = {key: sum(one[key] for one in timed) for key in ("images", "wall_s")}
    kept = {key: sum(one[key] * one["images"] for one in timed) / total["images"] for key in PER_IMAGE}
    kept |= {"images": total["images"], "images_per_s": total["images"] / total["wall_s"], "passes": passes}
    kept["first_batch_s"] = sum(one["first_batch_s"] for one in timed) / len(timed)
    kept |= {key: warm[key] for key in ("shapes", "dtypes", "mean", "command_to_first_batch_s")}
    return kept | {"ready_to_first_batch_s": warm["first_batch_s"], "peak_pss_mb": max(peak, default=0) / 1e6}


def check(passes: list[dict], images: int, slack: int) -> None:
    """Each pass holds every image, but for fewer than `slack` that fill no batch; each batch is a network's input."""
    for one in passes:
        if not images - slack < one["images"] <= images:
            raise SystemExit(f"a pass gave {one['images']} of {images} images")
    if passes[0]["shapes"] != [[3, 224, 224]] or len(passes[0]["dtypes"]) != 1:
        raise SystemExit(f"batches of {passes[0]['shapes']}, {passes[0]['dtypes']}")


def check_alike(name: str, found: dict, case: dict[str, list[dict]]) -> None:
    """The mean pixel of all arms is the same, but for chance: they read the same images and crop them alike."""
    chance = 4 + 100 / (found["images"] / (found["passes"] - 1)) ** 0.5
    for other, rows in case.items():
        for row in rows:
            if abs(row["mean"] - found["mean"]) > chance:
                raise SystemExit(f"{name} has pixels of {found['mean']:.1f} on average, {other} of {row['mean']:.1f}")


@contextmanager
def peak_pss(root: int) -> Iterator[list[int]]:
    """Fill a list with the memory of the process tree in bytes (shared pages counted once), until the block ends."""
    found: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PSS_EVERY_S):
            found.append(sum(map(_pss, children(root))))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _pss(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def rounds(args: argparse.Namespace, record: dict[str, Any]) -> None:
    """Measure what the record does not hold yet, writing it after each arm."""
    cpus = sorted(os.sched_getaffinity(0))
    absent = sorted(name for name, arm in ARMS.items() if arm.needs and missing(arm, args.extra))
    record["left_out"] = [f"{name}: {ARMS[name].needs} is not installed" for name in absent]
    for name, (key, images, count) in sets(args).items():
        folder = args.work / f"layouts-{key}"
        with serving(args.server) as server:
            for number in range(args.rounds):
                for cores in args.cores:
                    for arm_name in args.only:
                        arm = ARMS[arm_name]
                        case = record["measured"].setdefault(name, {}).setdefault(str(cores), {})
                        done = case.setdefault(arm_name, [])
                        if arm_name in absent or not arm.wanted(name, cores, number) or len(done) > number:
                            continue
                        root = data_layouts.make(arm.layout, images, folder)
                        _read_once(root)
                        place = server.upload(root, f"{name}/{arm.layout}") if arm.s3 else str(root)
                        # With a core to spare, the server gets it: it would stand on other machines.
                        with server.apart(set(cpus) - set(cpus[:cores]) or set(cpus), arm.latency_s):
                            found = measure(
                                arm, place, count, arm.passes(name), cpus[:cores], args, server if arm.s3 else None
                            )
                        check_alike(arm_name, found, case)
                        done.append(found | {"when": now(), "commit": commit()})
                        if arm.s3:
                            done[-1]["server"] = record["server"] = server.kind
                        _write(args.out, record)
                        print(
                            f"{name}, {cores} cores, round {number + 1}/{args.rounds}: {arm_name}"
                            f" {found['images_per_s']:.0f} images/s, {1e3 * found['cpu_s_per_image']:.2f} CPU ms,"
                            f" first batch {found['first_batch_s']:.2f} s"
                            f" ({found['command_to_first_batch_s']:.1f} s from the command),"
                            f" {found['peak_pss_mb']:.0f} MB",
                            flush=True,
                        )


def sets(args: argparse.Namespace) -> dict[str, tuple[str, data_layouts.Images, int]]:
    """The sets of images by name: a key for their layouts, the images, how many a pass has."""
    found = {}
    if "photos" in args.sets:
        processes = len(os.sched_getaffinity(0))
        key, images = data_layouts.photo_images(args.work, args.images, args.seed, args.data, processes)
        found["photos"] = (key, images, args.images)
    if "given" in args.sets and args.data:
        there = data_layouts.read_manifest(args.data).num_samples
        repeat = max(1, round(GIVEN_SHARE * args.images / there))
        key, images = data_layouts.shard_images(args.data, repeat)
        found["given"] = (key, images, repeat * there)
    return found


def _read_once(root: Path) -> None:
    """Bring the files into the page cache: what is compared is not the disk."""
    for path in root.rglob("*"):
        if path.is_file():
            path.read_bytes()


def _write(path: Path, record: dict[str, Any]) -> None:
    record["ratios"] = ratios(record["measured"])
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, path)


def start_record(args: argparse.Namespace) -> dict[str, Any]:
    """The record at `--out` when it was measured with the same settings, else a new one."""
    settings = {"images": args.images, "batch": args.batch, "given_share": GIVEN_SHARE, "warm_s": args.warm_s}
    settings |= {
        "short_side": data_layouts.SHORT_SIDE,
        "quality": data_layouts.QUALITY,
        "shard_bytes": data_layouts.SHARD_BYTES,
    }
    found = versions()
    for package in ("webdataset", "litdata", "pillow"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    fresh = {
        "command": "benchmarks/data.py",
        "data": "--data: a small set of photographs, repeated; photos: JPEGs made of it (benchmarks/photos.py)",
        "seed": args.seed,
        "when": now(),
        "settings": settings,
        "hardware": hardware(),
        "versions": found,
        "measured": {},
    }
    if not args.out.exists():
        return fresh
    there = json.loads(args.out.read_text())
    same = all(there.get(key) == fresh[key] for key in ("command", "seed", "settings", "hardware"))
    if not same:
        raise SystemExit(f"{args.out} was measured with other settings; delete it, or write to another file")
    if there["versions"] != fresh["versions"]:
        print(f"going on with {args.out}, which was begun with {there['versions']}", flush=True)
    return there


def main() -> None:
    """Measure and write the record."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", help="shards of real photographs; without them, scikit-learn's two are the sources")
    cli.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "kdray-bench-data"))
    cli.add_argument("--images", type=int, default=4000)
    cli.add_argument("--batch", type=int, default=64)
    cli.add_argument("--rounds", type=int, default=2)
    cli.add_argument("--warm-s", type=float, default=WARM_S)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--only", type=lambda text: text.split(","), default=list(ARMS), metavar="ARM,ARM")
    cli.add_argument("--cores", type=lambda text: [int(n) for n in text.split(",")], default=[2, 1], metavar="2,1")
    cli.add_argument("--sets", type=lambda text: text.split(","), default=["photos", "given"], metavar="photos,given")
    cli.add_argument("--server", choices=("auto", "radosgw", "moto"), default="auto", help="what serves S3")
    cli.add_argument("--extra", default="", help="a folder of packages that are installed nowhere else")
    cli.add_argument("--out", type=Path, required=True)
    args = cli.parse_args()
    unknown = [name for name in args.only if name not in ARMS]
    if unknown:
        cli.error(f"no arm {unknown[0]}; there are {', '.join(ARMS)}")
    if max(args.cores) > len(os.sched_getaffinity(0)):
        cli.error(f"this machine has {len(os.sched_getaffinity(0))} cores")
    if args.extra:
        sys.path.append(args.extra)  # last: what is installed comes first
    record = start_record(args)
    rounds(args, record)
    _write(args.out, record)
    print(json.dumps(record["ratios"], indent=1))


if __name__ == "__main__":
    main()
