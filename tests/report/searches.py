"""Facts of searches as a search leaves them, of any size, for tests of what is drawn from them."""

from __future__ import annotations

import datetime
import math
import random
from typing import Any

SPACE = {
    "method": "choice(kd, mcld, dkd)",
    "objectives.kd.temperature": "choice(2, 4, 8)",
    "objectives.kd.weight": "uniform(0.1, 2)",
    "objectives.mcld.instance.weight": "loguniform(0.1, 3)",
    "train.optimizer.lr": "loguniform(0.001, 1)",
    "train.batch": "int(32, 256, 32)",
}
BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def trial(number: int, state: str = "done", tops: list[float] | None = None, **values: Any) -> dict[str, Any]:
    """One trial with the accuracies `tops` by epoch."""
    tops = [] if tops is None else tops
    history = [
        {"epoch": epoch, "val/top1": top, "loss/total": 3 - top, "seconds": 10.0, "images_per_s": 800.0, "lr": 0.1}
        for epoch, top in enumerate(tops, start=1)
    ]
    best = max(range(len(tops)), key=tops.__getitem__) if tops else None
    began = BEGAN + datetime.timedelta(seconds=30 * number)
    ended = began + datetime.timedelta(seconds=11 * len(tops))
    facts = {
        "number": number,
        "parameters": {"objectives.kd.weight": 0.1 * number + 0.05},
        "changes": {"objectives.kd.weight": 0.1 * number + 0.05},
        "state": state,
        "history": history,
        "value": None if best is None else tops[best],
        "best_epoch": None if best is None else best + 1,
        "epochs": len(tops),
        "wall_s": 11.0 * len(tops),
        "accelerators": 1.0,
        "attempts": 1,
        "error": None,
        "artifact": f"s3://bucket/runs/artifacts/search/trials/{number:04d}",
        "started": None if state == "waiting" else began.isoformat(timespec="seconds"),
        "finished": ended.isoformat(timespec="seconds") if state in ("done", "stopped", "failed") else None,
        "lineage": [],
    }
    return facts | values


def draw(rng: random.Random) -> dict[str, Any]:
    """Parameters of one trial from `SPACE`, whose groups have parameters of their own."""
    method = rng.choice(["kd", "mcld", "dkd"])
    drawn: dict[str, Any] = {"method": method}
    if method == "kd":
        drawn["objectives.kd.temperature"] = rng.choice([2, 4, 8])
        drawn["objectives.kd.weight"] = rng.uniform(0.1, 2)
    elif method == "mcld":
        drawn["objectives.mcld.instance.weight"] = math.exp(rng.uniform(math.log(0.1), math.log(3)))
    return drawn | {
        "train.optimizer.lr": math.exp(rng.uniform(math.log(1e-3), 0)),
        "train.batch": rng.randrange(32, 257, 32),
    }


def quality(parameters: dict[str, Any]) -> float:
    """The accuracy that a trial comes to: the learning rate matters most, then the method, the batch not at all."""
    lr = math.log10(parameters["train.optimizer.lr"])
    method = {"kd": 0.05, "mcld": 0.08, "dkd": 0.0}[parameters["method"]]
    return 0.6 - 0.12 * (lr + 1) ** 2 + method - 0.02 * abs(parameters.get("objectives.kd.weight", 1) - 1)


def search(count: int, seed: int = 0, epochs: int = 8) -> dict[str, Any]:
    """A search whose bad trials are stopped early; every 11th failed."""
    rng = random.Random(seed)
    trials = []
    for number in range(count):
        parameters = draw(rng)
        final = quality(parameters)
        ran = epochs if final > 0.5 else max(1, epochs // (2 if final > 0.4 else 4))
        state = "done" if ran == epochs else "stopped"
        tops = [final * (1 - math.exp(-epoch / 2)) + rng.gauss(0, 0.005) for epoch in range(1, ran + 1)]
        trials.append(trial(number, state, tops, parameters=parameters, changes=parameters))
        if number % 11 == 7:
            trials[-1] |= {"state": "failed", "error": "TrainingError: the loss is not finite at step [12]"}
            trials[-1] |= {"value": None, "best_epoch": None, "history": [], "epochs": 0}
    return facts(trials, max_epochs=epochs, space=SPACE)


def facts(trials: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """A search of these trials."""
    judged = [one for one in trials if one["value"] is not None]
    found: dict[str, Any] = {
        "metric": "val/top1",
        "mode": "max",
        "searcher": {"type": "tpe", "seed": 0},
        "scheduler": {"type": "asha", "grace_epochs": 1, "reduction": 3},
        "space": {"objectives.kd.weight": "uniform(0, 3)"},
        "wanted": len(trials),
        "max_epochs": 8,
        "concurrent": 2,
        "seed": 0,
        "trials": trials,
        "best": max(judged, key=lambda one: one["value"])["number"] if judged else None,
        "importance": None,
        "wall_s": 500.2,
        "transfer": None,
    }
    return found | values
