"""Seconds that a trial costs beside its training, by the way in which it is run. `search.py` calls this.

    python benchmarks/search_starts.py EXPERIMENT TRIALS [PATH=VALUE ...]

One trial at a time, of one epoch each, in one Ray cluster: in its own process, with processes reused and not; and as a
Ray Train run of one worker, which is what a trial of several workers is. Prints a JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from kdray.experiment import load_comparison
from kdray.pipeline.search_work import SearchWork
from kdray.train.cluster import connect_in_background


class TrainRun(SearchWork):
    """Trials that are Ray Train runs, whatever their number of workers."""

    @property
    def in_process(self) -> bool:
        return False


WAYS: dict[str, tuple[type[SearchWork], bool]] = {
    "process, reused": (SearchWork, True),
    "process, one a trial": (SearchWork, False),
    "Ray Train, process reused": (TrainRun, True),
}


class Clock:
    """A view that notes when trials begin and end."""

    def __init__(self) -> None:
        self.began: dict[int, float] = {}
        self.ended: dict[int, float] = {}

    def update(self, trial: dict[str, Any]) -> None:
        if trial["state"] == "running":
            self.began.setdefault(trial["number"], time.time())
        elif trial["finished"] is not None:
            self.ended.setdefault(trial["number"], time.time())

    def warning(self, text: str) -> None:
        print(f"  warning: {text}", file=sys.stderr, flush=True)


class Quiet:
    """A listener that nothing is told."""

    def event(self, kind: str, values: dict[str, Any]) -> None: ...

    def stop_requested(self) -> bool:
        return False


def measure(plan: Any, way: str, trials: int) -> dict[str, list[float]]:
    """Run the trials in one way; the figures of each."""
    from kdray.objectives.search_space import space_of
    from kdray.pipeline.searching import goal_of, search_work, slots_for
    from kdray.store import Store
    from kdray.tune.journal import Journal
    from kdray.tune.samplers import make_sampler
    from kdray.tune.sweep import Sweep

    kind, reuse = WAYS[way]
    experiment = plan.comparison.first
    goal, space = goal_of(experiment.search), space_of(experiment)
    store, folder = Store(experiment.storage), f"starts/{list(WAYS).index(way)}"
    slots = slots_for(experiment.cluster, plan.stream, trials, 1)
    work = search_work(plan, goal, slots, {}, store, folder)
    work = kind(**{name: getattr(work, name) for name in work.__dataclass_fields__})
    journal, clock = Journal(store, folder), Clock()
    began = time.time()
    found = Sweep(
        work=work,
        goal=goal,
        sampler=make_sampler(experiment.search.searcher, space, 0, goal),
        slots=slots,
        journal=journal,
        store=store,
        folder=folder,
        known=[],
        view=clock,
        listener=Quiet(),
        wanted=trials,
        reuse=reuse,
    ).run()
    journal.close()
    over = time.time()
    if any(trial["state"] != "done" for trial in found):
        raise SystemExit(f"{way}: {[trial['error'] for trial in found]}")
    records = [store.read_json(f"{work.artifact(trial['number'])}/record.json") for trial in found]
    before = [began, *(clock.ended[number] for number in range(trials - 1))]
    return {
        "wall_s": [over - began],
        "first_step_s": [record["first_step_at"] - start for record, start in zip(records, before, strict=True)],
        "beside_s": [clock.ended[number] - before[number] - record["train_s"] for number, record in enumerate(records)],
    }


def main() -> None:
    """Measure all ways."""
    path, count, *sets = sys.argv[1:]
    experiment = load_comparison(path, [*sets, "train.epochs=1", "cluster.cpus_per_worker=1"])
    connected = connect_in_background(experiment.cluster)
    from kdray.pipeline.plan import make_plan

    plan = make_plan(experiment)
    connected()
    found = {}
    for way in WAYS:
        found[way] = measure(plan, way, int(count))
        print(f"  {way}: {found[way]}", file=sys.stderr, flush=True)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
