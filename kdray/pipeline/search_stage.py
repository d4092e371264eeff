"""The search of a run: it stands before the stage that it is about, and makes it the winner's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kdray.data.dataset import open_dataset
from kdray.experiment import Experiment
from kdray.pipeline.members import is_judged
from kdray.pipeline.plan import Plan
from kdray.pipeline.record import write_record
from kdray.pipeline.searching import FOLDER, Searching
from kdray.pipeline.shelf import RUNS, Shelf
from kdray.pipeline.stages import Stage, draft_stages, place_stage
from kdray.pipeline.winner import adopt, best_text
from kdray.report.best_yaml import NAME as BEST
from kdray.report.best_yaml import best_header
from kdray.report.mlflow_export import export_mlflow
from kdray.report.search_report import report_search
from kdray.store import Store
from kdray.train.job import Listener
from kdray.tune.importance import importance
from kdray.tune.journal import Journal
from kdray.tune.views import ViewMaker


def search_stage(
    plan: Plan,
    stage: Stage,
    store: Store,
    record: dict[str, Any],
    listener: Listener,
    view: ViewMaker,
    prepare: Callable[[Plan], None],
) -> tuple[Stage, dict[str, Any]]:
    """Search, leave best.yaml and what is to be looked at in the run's folder, and return the winner's stage and the
    facts of the search, of which the record has a shorter form.

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
    found.facts["importance"] = importance(found.facts)
    report_search(store, run, found.facts)
    record["search"] = in_short(found.facts)
    write_record(store, record)
    won = _winner_stage(plan, stage, found.winner, store)
    if not won.done:
        adopt(store, found.folder, won.spec.folder)
    done = store.exists(f"{won.spec.folder}/record.json")
    record["planned"][stage.name] = won.spec.folder
    return replace(won, done=done, title=f"{won.title}, trial {found.trial['number']}"), found.facts


def send_to_mlflow(store: Store, facts: dict[str, Any], record: dict[str, Any], uri: str) -> None:
    """Send the `facts` of a search whose winner is there to MLflow, and note that in its run's record.

    Raises:
        StoreError: MLflow does not take it; the same command sends what is missing.
    """
    record["search"] |= {"mlflow": export_mlflow(facts, record, uri), "mlflow_uri": uri}
    write_record(store, record)


def send_again(store: Store, record: dict[str, Any], uri: str) -> None:
    """Send the search of a finished run to another MLflow, or to one for the first time.

    Raises:
        StoreError: MLflow does not take it.
    """
    run, facts = f"{RUNS}/{record['run_id']}", record["search"]
    whole = facts | {"trials": Journal(store, f"{run}/{FOLDER}").load()}
    if facts["transfer"] is not None:
        whole["transfer"] = facts["transfer"] | {"trials": Journal(store, f"{run}/{FOLDER}-full").load()}
    send_to_mlflow(store, whole, record, uri)


def _winner_stage(plan: Plan, stage: Stage, winner: Experiment, store: Store) -> Stage:
    """The stage of `winner`, taught by the very teacher that the trials had."""
    (member,) = plan.members
    dataset = member.dataset
    if winner.data != member.experiment.data:
        dataset = open_dataset(winner.data)
    drafts = draft_stages(winner, is_judged(winner, dataset), plan.weights.__getitem__)
    (draft,) = [each for each in drafts if each.name == stage.kind]
    taught = next((each.spec.folder for each, _ in plan.stages if each.kind == "teacher"), None)
    return place_stage(winner, dataset, draft, taught, Shelf(store), None, plan.fresh)


def in_short(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` for the record: of each epoch of a trial what it is judged by. The trial's own file has the rest."""
    columns = ("epoch", "seconds", facts["metric"])

    def short(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            trial | {"history": [{key: row.get(key) for key in columns} for row in trial["history"]]}
            for trial in trials
        ]

    transfer = facts["transfer"] and facts["transfer"] | {"trials": short(facts["transfer"]["trials"])}
    return facts | {"trials": short(facts["trials"]), "transfer": transfer}
