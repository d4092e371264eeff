"""What an objective only reports is in the history of its run, beside the losses."""

from __future__ import annotations

from tests.train.conftest import Listener, MakeLoop


def test_parts_of_weight_zero_reach_the_history_and_not_the_total(make_loop: MakeLoop) -> None:
    listener = Listener()
    gap = {"type": "tests.objectives.user_objectives:Gap", "weight": 0.1}
    outcome = make_loop(objectives={"ce": {}, "gap": gap}, listener=listener, epochs=2).run()
    for row in outcome.history:
        assert row["loss/gap.size"] > 0
        assert abs(row["loss/total"] - row["loss/ce"] - 0.1 * row["loss/gap"]) < 1e-4 * row["loss/total"]
    logged = [values for kind, values in listener.events if kind == "log"]
    assert logged and all("loss/gap.size" in values for values in logged)
