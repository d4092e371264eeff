"""What is known of a search while it runs: counts, the best, the time left. Each change costs the same at any size."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

from kdray.report.text import duration
from kdray.report.trial_text import ENDED, better, metric_text, standing, usable


@dataclass
class Line:
    """What is shown of one trial. `now` is the metric of its last epoch; `seen_s` the clock when it last changed."""

    number: int
    state: str
    parameters: dict[str, Any]
    epochs: int = 0
    now: float | None = None
    value: float | None = None
    best_epoch: int | None = None
    loss: float | None = None
    wall_s: float = 0.0
    seen_s: float = 0.0
    attempts: int = 1
    error: str | None = None

    def wall(self, clock_s: float) -> float:
        """Seconds that the trial took until now."""
        return self.wall_s + (clock_s - self.seen_s if self.state == "running" else 0.0)


@dataclass
class SweepState:
    """The trials of a search by number; `clock_s` below is any clock that only goes forward, in seconds."""

    metric: str
    mode: str
    wanted: int
    max_epochs: int | None
    begun_s: float
    lines: dict[int, Line] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    best: Line | None = None
    slots: int = 0  # trials that ran at a time when last one ended, or now if that is more
    ended_wall_s: float = 0.0
    first_values: dict[str, Any] = field(default_factory=dict)
    differing: set[str] = field(default_factory=set)
    met: dict[str, int] = field(default_factory=dict)

    def update(self, trial: dict[str, Any], clock_s: float) -> tuple[Line | None, Line]:
        """Take in a trial that changed; return what was known of it before and what is known now."""
        before = self.lines.get(trial["number"])
        line = self._read(trial, clock_s)
        self.lines[line.number] = line
        if before is not None:
            self.counts[before.state] -= 1
            self._forget(before)
        if before is not None and before.state == "running" and line.state != "running":
            self.slots = self.counts["running"] + 1
        self.counts[line.state] = self.counts.get(line.state, 0) + 1
        self.slots = max(self.slots, self.count("running"))
        self._learn(line)
        if self.best is not None and self.best.number == line.number and self._worse(line, self.best):
            self.best = None  # a trial that starts over loses what it had, one that is stopped stands behind others
            for other in self.lines.values():
                self._judge(other)
        self._judge(line)
        return before, line

    def _judge(self, line: Line) -> None:
        """Make `line` the best if it is; among equals the one that is. What failed is never the best."""
        if not usable(line.value) or line.state == "failed":
            return
        if self.best is None or self.best.number == line.number or self._worse(self.best, line):
            self.best = line

    def _worse(self, line: Line, than: Line) -> bool:
        """Whether `line` stands behind a line with a value."""
        if line.value is None or standing(line.state) != standing(than.state):
            return line.value is None or standing(line.state) > standing(than.state)
        return better(than.value or 0.0, line.value, self.mode)

    def _read(self, trial: dict[str, Any], clock_s: float) -> Line:
        history = trial["history"]
        last = history[-1] if history else {}
        spent = sum(row.get("seconds") or 0.0 for row in history)
        return Line(
            number=trial["number"],
            state=trial["state"],
            parameters=trial["parameters"],
            epochs=trial["epochs"],
            now=last.get(self.metric),
            value=trial["value"],
            best_epoch=trial["best_epoch"],
            loss=last.get("loss/total"),
            wall_s=max(trial.get("wall_s") or 0.0, spent),
            seen_s=clock_s,
            attempts=trial.get("attempts") or 1,
            error=trial.get("error"),
        )

    def _learn(self, line: Line) -> None:
        if line.state in ENDED:
            self.ended_wall_s += line.wall_s
        for name, value in line.parameters.items():
            self.met[name] = self.met.get(name, 0) + 1
            if self.first_values.setdefault(name, value) != value:
                self.differing.add(name)

    def _forget(self, line: Line) -> None:
        if line.state in ENDED:
            self.ended_wall_s -= line.wall_s
        for name in line.parameters:
            self.met[name] -= 1

    def count(self, state: str) -> int:
        """Trials in this state."""
        return self.counts.get(state, 0)

    def ended(self) -> int:
        """Trials that will not run again."""
        return sum(self.count(state) for state in ENDED)

    def varying(self) -> list[str]:
        """The parameters that differ between the trials, as `trial_text.varying` says it."""
        some = len(self.lines)
        return [n for n in self.first_values if some == 1 or n in self.differing or 0 < self.met[n] < some]

    def shown(self, most: int) -> list[Line]:
        """The running trials by number, then the best of the ended ones: `most` together."""
        running = [line for line in self.lines.values() if line.state == "running"]
        running = heapq.nsmallest(most, running, key=lambda line: line.number)
        sign = 1 if self.mode == "max" else -1
        ended = [line for line in self.lines.values() if line.state in ENDED]

        def rank(line: Line) -> tuple[bool, int, float, int]:
            value = sign * line.value if line.value is not None else 0.0
            return usable(line.value), -standing(line.state), value, -line.number

        return running + heapq.nlargest(most - len(running), ended, key=rank)

    def left_s(self, clock_s: float) -> float | None:
        """Seconds until the last wanted trial ends, when those to come take as long as those before; None: not known.

        Before the first trial ended, a whole one is what its epochs took so far, for all epochs.
        """
        running = [line for line in self.lines.values() if line.state == "running"]
        if self.ended():
            whole_s = self.ended_wall_s / self.ended()
        else:
            paces = [line.wall_s / line.epochs for line in running if line.epochs]
            if not paces or self.max_epochs is None:
                return None
            whole_s = self.max_epochs * sum(paces) / len(paces)
        to_come = max(0, self.wanted - self.ended() - len(running))
        ahead = [max(0.0, whole_s - line.wall(clock_s)) for line in running]
        # The last ones do not fill all slots: no estimate below the longest that is still ahead.
        return max([(to_come * whole_s + sum(ahead)) / max(1, self.slots), *ahead, whole_s if to_come else 0.0])

    def summary(self, clock_s: float) -> tuple[str, str]:
        """The counts; and the best so far, the time spent and left."""
        waiting = max(0, self.wanted - self.ended() - self.count("running"))
        counts = [f"{self.count(state)} {state}" for state in (*ENDED, "running")]
        parts = []
        if self.best is not None:
            best = self.best
            at = f"trial {best.number}" + (f", epoch {best.best_epoch}" if best.best_epoch else "")
            parts.append(f"best {self.metric} {metric_text(self.metric, best.value)} ({at})")
        parts.append(f"{duration(clock_s - self.begun_s)} so far")
        left = self.left_s(clock_s)
        if left is not None and (waiting or self.count("running")):
            parts.append(f"about {duration(left)} left")
        return f"{', '.join(counts)}, {waiting} waiting of {self.wanted}", "  ".join(parts)
