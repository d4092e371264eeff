"""The search of a run: it stands before the stage that it is about, and makes it the winner's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kdray.pipeline.plan import Plan, make_plan
from kdray.pipeline.record import write_record
from kdray.pipeline.searching import FOLDER, Searching
from kdray.pipeline.shelf import RUNS
from kdray.pipeline.stages import Stage
from kdray.pipeline.winner import adopt, best_text
from kdray.report.best_yaml import NAME as BEST
from kdray.report.best_yaml import best_header
from kdray.report.search_report import report_search
from kdray.store import Store
from kdray.train.job import Listener
from kdray.tune.views import ViewMaker


def search_stage(
    plan: Plan,
    stage: Stage,
    store: Store,
    record: dict[str, Any],
    listener: Listener,
    view: ViewMaker,
    prepare: Callable[[Plan], None],
) -> Stage:
    """Search, leave best.yaml and what is to be looked at in the run's folder, and return the winner's stage.

    The winner's artifact is that of its trial, where that trained to the end.

    Raises:
        Interrupted: the user stopped the search.
        KdrayError: no trial came to a result.
    """
    run = f"{RUNS}/{plan.run_id}"
    seen_by = {"versions": record["versions"], "hardware": record["hardware"]}
    found = Searching(plan, listener, view, seen_by, store, f"{run}/{FOLDER}", prepare).run()
    store.write_text(f"{run}/{BEST}", best_text(found.winner, best_header(found.facts, record)))
    found.facts["best_yaml"] = store.path_uri(f"{run}/{BEST}")
    record["search"] = found.facts
    asked = plan.comparison.first.search
    report_search(store, run, found.facts, record, asked.mlflow if asked is not None else None)
    record["search"] = in_short(found.facts)
    write_record(store, record)
    won = make_plan(found.winner, fresh=plan.fresh).stages[-1][0]
    if not won.done:
        adopt(store, found.folder, won.spec.folder)
    done = store.exists(f"{won.spec.folder}/record.json")
    record["planned"][stage.name] = won.spec.folder
    return replace(won, done=done, title=f"{won.title}, trial {found.trial['number']}")


def in_short(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` for the record: of each epoch of a trial what it is judged by. The trial's own file has the rest."""
    columns = ("epoch", "seconds", facts["metric"])
    trials = [
        trial | {"history": [{key: row.get(key) for key in columns} for row in trial["history"]]}
        for trial in facts["trials"]
    ]
    return facts | {"trials": trials}
