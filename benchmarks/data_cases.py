"""What `benchmarks/data.py` measures, and which of its figures are divided by which."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

BOTH, PHOTOS, GIVEN = ("photos", "given"), ("photos",), ("given",)


@dataclass(frozen=True)
class Arm:
    """One contestant: its script and the option that it is run with, the layout it reads, whether that lies in S3 and
    what is added to the latency of every request, the sets for which it is measured on one core, whether it is on all,
    with which sets, and whether in the first round alone.
    """

    script: str
    layout: str
    option: str = ""
    s3: bool = False
    latency_s: float = 0.0
    one_core: tuple[str, ...] = ()
    all_cores: bool = True
    sets: tuple[str, ...] = BOTH
    once: bool = False
    needs: str = ""

    def passes(self, name: str) -> int:
        """How many passes over the set `name` it makes. All but the first are timed: more than one where passes are
        short, and where one begins before the last ends.
        """
        return 3 if name == "given" or self.script == "kdray_feed" else 2

    def wanted(self, name: str, cores: int, number: int) -> bool:
        """Whether it is measured with the set `name` on that many cores in round `number` from 0."""
        if number and self.once:
            return False
        return name in self.sets and (name in self.one_core if cores == 1 else self.all_cores)


ARMS = {
    "bare": Arm("bare", "shards", one_core=BOTH),
    "loader": Arm("loader", "folder", one_core=BOTH),
    "loader_uint8": Arm("loader", "folder", "uint8", one_core=BOTH),
    "ray_documented": Arm("ray_documented", "folder", one_core=BOTH, once=True),
    "ray_parquet": Arm("ray_parquet", "shards", once=True),
    "webdataset": Arm("web_dataset", "tars", one_core=BOTH, once=True, needs="webdataset"),
    "litdata": Arm("lit_data", "chunks", one_core=BOTH, once=True, needs="litdata"),
    "kdray_ray": Arm("kdray_feed", "shards", "ray", one_core=BOTH),
    "kdray_ray_data": Arm("kdray_feed", "shards", "ray_data", sets=PHOTOS),
    "kdray_threads": Arm("kdray_feed", "shards", "threads", one_core=BOTH),
    "kdray_resident": Arm("kdray_feed", "shards", "resident", sets=GIVEN),
    "bare_packed": Arm("bare", "packed", one_core=BOTH),
    "kdray_ray_packed": Arm("kdray_feed", "packed", "ray", one_core=BOTH),
    "kdray_threads_packed": Arm("kdray_feed", "packed", "threads", one_core=BOTH),
    "kdray_ray_s3": Arm("kdray_feed", "shards", "ray", s3=True, one_core=BOTH),
    "kdray_threads_s3": Arm("kdray_feed", "shards", "threads", s3=True, one_core=BOTH),
    "kdray_ray_s3_50ms": Arm("kdray_feed", "shards", "ray", True, 0.05, one_core=PHOTOS, all_cores=False),
    "kdray_threads_s3_50ms": Arm("kdray_feed", "shards", "threads", True, 0.05, one_core=PHOTOS, all_cores=False),
    "kdray_ray_packed_s3": Arm("kdray_feed", "packed", "ray", s3=True, one_core=PHOTOS, sets=PHOTOS),
}
RATIOS = (
    ("kdray_ray / loader", "kdray_ray", "loader", "images_per_s"),
    ("kdray_threads / loader", "kdray_threads", "loader", "images_per_s"),
    ("kdray_ray / loader_uint8", "kdray_ray", "loader_uint8", "images_per_s"),
    ("kdray_threads / loader_uint8", "kdray_threads", "loader_uint8", "images_per_s"),
    ("kdray_ray_packed / loader_uint8", "kdray_ray_packed", "loader_uint8", "images_per_s"),
    ("kdray_ray / ray_documented", "kdray_ray", "ray_documented", "images_per_s"),
    ("kdray_ray / ray_parquet", "kdray_ray", "ray_parquet", "images_per_s"),
    ("kdray_ray / webdataset", "kdray_ray", "webdataset", "images_per_s"),
    ("kdray_ray / litdata", "kdray_ray", "litdata", "images_per_s"),
    ("kdray_ray_packed / loader", "kdray_ray_packed", "loader", "images_per_s"),
    ("kdray_threads_packed / loader", "kdray_threads_packed", "loader", "images_per_s"),
    ("kdray_ray / bare", "kdray_ray", "bare", "images_per_s"),
    ("kdray_ray_data / bare", "kdray_ray_data", "bare", "images_per_s"),
    ("kdray_threads / bare", "kdray_threads", "bare", "images_per_s"),
    ("kdray_ray_packed / bare_packed", "kdray_ray_packed", "bare_packed", "images_per_s"),
    ("kdray_threads_packed / bare_packed", "kdray_threads_packed", "bare_packed", "images_per_s"),
    ("kdray_ray_s3 / kdray_ray", "kdray_ray_s3", "kdray_ray", "images_per_s"),
    ("kdray_threads_s3 / kdray_threads", "kdray_threads_s3", "kdray_threads", "images_per_s"),
    ("kdray_ray_packed_s3 / kdray_ray_packed", "kdray_ray_packed_s3", "kdray_ray_packed", "images_per_s"),
    ("kdray_ray_s3_50ms / kdray_ray", "kdray_ray_s3_50ms", "kdray_ray", "images_per_s"),
    ("kdray_threads_s3_50ms / kdray_threads", "kdray_threads_s3_50ms", "kdray_threads", "images_per_s"),
    ("CPU an image: kdray_ray / kdray_ray_s3", "kdray_ray", "kdray_ray_s3", "cpu_s_per_image"),
    ("CPU an image: kdray_threads / kdray_threads_s3", "kdray_threads", "kdray_threads_s3", "cpu_s_per_image"),
    ("start to first batch: kdray_ray / ray_documented", "kdray_ray", "ray_documented", "command_to_first_batch_s"),
    ("start to first batch: kdray_ray / ray_parquet", "kdray_ray", "ray_parquet", "command_to_first_batch_s"),
    ("epoch's first batch: kdray_ray / ray_documented", "kdray_ray", "ray_documented", "first_batch_s"),
)
"""Name, the two arms, and which of their figures is divided."""


def ratios(measured: dict[str, Any]) -> dict[str, Any]:
    """Medians of the ratios inside each round, by set and cores, where both arms were measured."""
    found: dict[str, Any] = {}
    for name, by_cores in measured.items():
        for cores, case in by_cores.items():
            row = {}
            for title, a, b, key in RATIOS:
                # Both of a round; a round that was gone on with after a change is none.
                rounds = zip(case.get(a, []), case.get(b, []), strict=False)
                pairs = [(x, y) for x, y in rounds if x.get("commit") == y.get("commit")]
                if pairs:
                    row[title] = statistics.median(x[key] / y[key] for x, y in pairs)
            found.setdefault(name, {})[cores] = row
    return found
