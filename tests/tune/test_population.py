"""Population based training, driven by hand: a store, a few trials, and commands that are killed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from kdray.experiment import Search, phases_of
from kdray.experiment.space_text import parse_space
from kdray.store import Store
from kdray.tune.journal import Journal
from kdray.tune.population import Population
from kdray.tune.trials import Goal, Trial, changes_of, take_rows

SPACE = parse_space({"objectives.kd.weight": "uniform(0.1, 2)", "train.optimizer.lr": "loguniform(0.001, 1)"})
SCHEDULER = Search.model_validate(
    {
        "scheduler": {"type": "pbt", "every_epochs": 2, "quantile": 0.25},
        "space": {"train.optimizer.lr": "uniform(0.1, 1)"},
    }
).scheduler


@pytest.fixture(autouse=True)
def no_disk_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the command that is killed here, not the machine."""
    monkeypatch.setattr("os.fsync", lambda _: None)


class Killed(BaseException):
    """The command, by somebody."""


class Lab:
    """Commands over one store. A checkpoint is the list of the epochs that led to it."""

    def __init__(
        self, folder: Path, size: int = 8, max_epochs: int = 6, mode: str = "max", concurrent: int = 3
    ) -> None:
        self.store = Store(folder)
        self.size, self.max_epochs, self.concurrent = size, max_epochs, concurrent
        self.goal = Goal("val/top1", mode)
        self.fail: dict[int, int] = {}  # trial -> epoch in which it fails
        self.refuse: dict[int, int] = {}  # trial -> epoch that its store does not let it finish
        self.keep_out: set[int] = set()  # trials whose artifact the store does not take
        self.kept_out: set[int] = set()  # and did not take in an earlier command
        self.kill_keep: int | None = None  # journal entries until the command is killed
        self.before_keep = False
        self.order: list[tuple[int, int]] = []
        self.stopping = False
        self.worth: Callable[[int, int], float] = lambda number, epoch: 1 + number

    def folder_of(self, number: int) -> str:
        return f"artifacts/{number:05d}"

    def trials(self) -> list[Trial]:
        return Journal(self.store, "s").load()

    def _write(self, trial: Trial) -> None:
        self.store.write_json(f"s/trials/{trial['number']:05d}.json", trial)

    def _keep(self, trial: Trial) -> None:
        if self.kill_keep == 0 and self.before_keep:
            raise Killed
        self._write(trial)
        if self.kill_keep is not None:
            if self.kill_keep == 0:
                raise Killed
            self.kill_keep -= 1

    def population(self, begun: Callable[[str, Trial], None] = lambda *_: None) -> Population:
        return Population(
            self.trials(),
            SCHEDULER,
            SPACE,
            self.goal,
            0,
            max_epochs=self.max_epochs,
            size=self.size,
            store=self.store,
            folder_of=self.folder_of,
            keep=self._keep,
            concurrent=self.concurrent,
            on_new=begun,
            stopping=lambda: self.stopping,
        )

    def state(self, number: int) -> list[str]:
        """What the newest checkpoint of a trial says: the epochs that led to it, each as TRIAL:EPOCH."""
        names = self.store.list(f"{self.folder_of(number)}/checkpoints")
        return self.store.read_json(f"{self.folder_of(number)}/checkpoints/{max(names)}") if names else []

    def train(self, trial: Trial, config: dict[str, Any]) -> None:
        """To the end of the generation, as a process would."""
        number = trial["number"]
        assert config["number"] == number and json.loads(config["lineage"]) == trial["lineage"]
        assert json.loads(config["changes"]) == trial["changes"]
        states = self.state(number)
        assert len(states) == trial["epochs"] <= config["until"] <= self.max_epochs
        assert trial["epochs"] < config["until"] or number in self.keep_out | self.kept_out
        rows = []
        for epoch in range(trial["epochs"] + 1, config["until"] + 1):
            if self.fail.get(number) == epoch:
                trial |= {"state": "failed", "error": "it failed"}
                self._write(trial)
                return
            if self.refuse.get(number) == epoch:
                break
            states = [*states, f"{number}:{epoch}"]
            self.store.write_json(f"{self.folder_of(number)}/checkpoints/step-{epoch:09d}.pt", states)
            self.order.append((number, epoch))
            # How good a state is depends on which trials it went through.
            value = sum(self.worth(*map(int, each.split(":"))) for each in states) / 100
            rows.append({"epoch": epoch, "val/top1": value, "seconds": 1.0})
        take_rows(trial, rows, self.goal)
        ends = trial["epochs"] == self.max_epochs and number not in self.keep_out
        trial["state"] = "done" if ends else "waiting"
        self._write(trial)

    def run(self, generations: int | None = None) -> list[Trial]:
        """One command, until it has no more, or after so many generations."""
        live: list[tuple[str, Trial, dict[str, Any]]] = []
        began: dict[str, Trial] = {}

        def on_new(trial_id: str, trial: Trial) -> None:
            began[trial_id] = trial

        population, count = self.population(on_new), 0
        while True:
            config = population.suggest(f"t{count}")
            if config == Searcher.FINISHED and not live:
                return self.trials()
            if isinstance(config, dict):
                if generations is not None and config["until"] > SCHEDULER.every_epochs * generations:
                    return self.trials()
                trial = began[f"t{count}"]
                trial["state"] = "running"
                self._write(trial)
                live.append((f"t{count}", trial, config))
                assert len(live) <= self.concurrent
                count += 1
                continue
            trial_id, trial, config = live.pop()
            self.train(trial, config)
            population.on_trial_complete(trial_id)


def test_everybody_ends_at_the_last_epoch(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    trials = lab.run()
    assert [trial["state"] for trial in trials] == ["done"] * 8
    assert [trial["epochs"] for trial in trials] == [6] * 8
    assert len({json.dumps(trial["lineage"][0]["parameters"]) for trial in trials}) > 2
    for trial in trials:
        assert [row["epoch"] for row in trial["history"]] == [1, 2, 3, 4, 5, 6]
        assert len(lab.state(trial["number"])) == 6


def test_nobody_begins_a_generation_before_all_have_ended_the_last(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run()
    generations = [(epoch - 1) // 2 for _, epoch in lab.order]
    assert generations == sorted(generations) and set(generations) == {0, 1, 2}


def test_the_worst_take_the_state_of_the_best(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    trials = lab.run(generations=1)
    # A trial's number is how good it is: 0 and 1 are the worst of eight, 6 and 7 the best.
    for trial in trials:
        number = trial["number"]
        if number > 1:
            assert len(trial["lineage"]) == 1 and lab.state(number) == [f"{number}:1", f"{number}:2"]
            continue
        first, turn = trial["lineage"]
        donor = turn["from"]
        assert donor in (6, 7) and turn["from_epoch"] == 2 and trial["adopting"] is None
        assert lab.state(number) == [f"{donor}:1", f"{donor}:2"]
        assert lab.store.list(f"{lab.folder_of(number)}/checkpoints") == ["step-000000002.pt"]
        assert trial["history"] == trials[donor]["history"] and trial["value"] == trials[donor]["value"]
        assert first == trials[donor]["lineage"][0]  # what it went through is what the donor did
        assert turn["parameters"] == trial["parameters"] != trials[donor]["parameters"]
        SPACE.validate(trial["parameters"])
        assert trial["changes"] == SPACE.changes(trial["parameters"])


def test_only_the_newest_state_is_copied(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run(generations=1)
    for number in (6, 7):
        assert len(lab.store.list(f"{lab.folder_of(number)}/checkpoints")) == 2
    assert [len(lab.store.list(f"{lab.folder_of(number)}/checkpoints")) for number in (0, 1)] == [1, 1]


def test_the_least_are_the_best_where_less_is_better(tmp_path: Path) -> None:
    trials = Lab(tmp_path, mode="min").run(generations=1)
    for trial in trials:
        exploited = trial["number"] in (6, 7)
        assert len(trial["lineage"]) == 1 + exploited
        assert trial["lineage"][-1]["from"] in ((0, 1) if exploited else (None,))


def test_a_lineage_is_an_experiment_with_phases(tmp_path: Path) -> None:
    lab = Lab(tmp_path, max_epochs=8)
    lab.worth = lambda number, epoch: number if epoch <= 2 else -number  # those that were the worst become the best
    trials = lab.run()
    long = [trial for trial in trials if len(trial["lineage"]) > 2]
    assert long, "none was exploited twice, or took a state that was"
    for trial in trials:
        epochs = [turn["from_epoch"] for turn in trial["lineage"]]
        assert epochs == sorted(set(epochs)) and epochs[0] == 0 and epochs[-1] < 8
        assert trial["lineage"][-1]["parameters"] == trial["parameters"]
        changes = changes_of(trial)
        phases = phases_of(trial["lineage"])
        assert changes.get("phases", []) == phases
        assert {path: changes[path] for path in SPACE.names()} == trial["lineage"][0]["changes"]
        held = dict(trial["lineage"][0]["changes"])
        for phase in phases:
            held |= phase["set"]
        assert held == trial["changes"]


def test_a_failed_trial_leaves(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.fail = {7: 1, 3: 4}
    trials = lab.run()
    assert [trial["state"] for trial in trials] == ["failed" if number in lab.fail else "done" for number in range(8)]
    assert all(turn["from"] != 7 for trial in trials for turn in trial["lineage"])
    assert all(turn["from"] != 3 for trial in trials for turn in trial["lineage"] if turn["from_epoch"] > 2)


def test_one_that_cannot_go_on_waits_for_the_next_command(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.refuse = {7: 1, 3: 4}
    trials = lab.run()  # and no end of trying
    assert [trial["state"] for trial in trials] == ["waiting" if n in lab.refuse else "done" for n in range(8)]
    assert trials[7]["epochs"] == 0 and trials[3]["epochs"] == 3
    lab.refuse = {}
    assert [trial["epochs"] for trial in lab.run()] == [6] * 8
    assert {trial["state"] for trial in lab.trials()} == {"done"}


def test_one_that_cannot_be_written_waits_for_the_next_command(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.keep_out = {5}
    assert [trial["state"] for trial in lab.run()] == ["waiting" if n == 5 else "done" for n in range(8)]
    lab.kept_out, lab.keep_out = {5}, set()
    assert {trial["state"] for trial in lab.run()} == {"done"}


def test_when_all_fail_it_ends(tmp_path: Path) -> None:
    lab = Lab(tmp_path, size=3)
    lab.fail = {0: 1, 1: 1, 2: 1}
    assert [trial["state"] for trial in lab.run()] == ["failed"] * 3


@pytest.mark.parametrize("size, exploited", [(1, 0), (2, 1), (3, 1), (4, 1), (8, 2)])
def test_small_populations(tmp_path: Path, size: int, exploited: int) -> None:
    trials = Lab(tmp_path, size=size).run(generations=1)
    assert sum(len(trial["lineage"]) > 1 for trial in trials) == exploited


def test_the_same_search_is_the_same_twice(tmp_path: Path) -> None:
    one = Lab(tmp_path / "one").run()
    assert Lab(tmp_path / "two", concurrent=8).run() == one


def whole(tmp_path: Path, **settings: Any) -> list[Trial]:
    return Lab(tmp_path / "whole", **settings).run()


@pytest.mark.parametrize("before", [False, True])
def test_a_kill_anywhere_between_two_generations_is_mended(tmp_path: Path, before: bool) -> None:
    """Before or after any entry of the journal: the next command ends where one that was never killed does."""
    expected = whole(tmp_path, max_epochs=4)
    entries = 2 * 2 + 8  # two are exploited, each before and after its copy; then all are sent on
    killed = 0
    for at in range(entries):
        lab = Lab(tmp_path / f"{at}", max_epochs=4)
        lab.kill_keep, lab.before_keep = at, before
        try:
            trials = lab.run()
        except Killed:
            killed += 1
            lab.kill_keep = None
            trials = lab.run()
        for trial in trials:
            assert len(lab.state(trial["number"])) == 4
        assert trials == expected, at
    assert killed == entries


def test_a_kill_between_journal_and_copy_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole(tmp_path)
    lab = Lab(tmp_path / "killed")
    write, copies = Store.write_bytes, []

    def dying(self: Store, rel: str, data: Any) -> None:
        if (
            rel.startswith("artifacts")
            and rel.endswith("2.pt")
            and not json.loads(bytes(data))[0].startswith(f"{int(rel.split('/')[1])}:")
        ):
            copies.append(rel)
            if len(copies) == 2:
                raise Killed  # the old state is gone, the new one is not there
        write(self, rel, data)

    monkeypatch.setattr(Store, "write_bytes", dying)
    with pytest.raises(Killed):
        lab.run()
    left = [trial for trial in lab.trials() if trial["adopting"] is not None]
    assert len(left) == 1 and lab.state(left[0]["number"]) == []
    lab.population()
    donor = left[0]["adopting"]
    assert lab.state(left[0]["number"]) == [f"{donor}:1", f"{donor}:2"]
    assert all(trial["adopting"] is None for trial in lab.trials())
    assert lab.run() == expected


def test_a_stop_within_a_generation_is_finished_first(tmp_path: Path) -> None:
    expected = whole(tmp_path)
    lab = Lab(tmp_path / "stopped")
    begun: dict[str, Trial] = {}
    population = lab.population(begun.__setitem__)
    for name in "ab":
        config = population.suggest(name)
        lab.train(begun[name], config)
        population.on_trial_complete(name)
    lab.stopping = True
    assert population.suggest("c") == Searcher.FINISHED
    lab.stopping = False
    assert len(lab.trials()) == 2
    assert lab.run() == expected


def test_a_population_that_is_made_larger_catches_up(tmp_path: Path) -> None:
    lab = Lab(tmp_path, size=4)
    lab.run(generations=1)
    lab.size = 6
    trials = lab.run()
    assert [trial["state"] for trial in trials] == ["done"] * 6


def test_what_is_journaled_is_plain_json(tmp_path: Path) -> None:
    for trial in Lab(tmp_path).run():
        again = json.loads(json.dumps(copy.deepcopy(trial), allow_nan=False))
        assert again == trial
