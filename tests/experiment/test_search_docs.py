"""The examples of docs/search-space.md are what they say."""

import re
from pathlib import Path

from kdray.experiment import experiment_from_dict
from kdray.experiment.yaml_text import parse

PAGE = (Path(__file__).parents[2] / "docs" / "search-space.md").read_text()
BASE = {
    "data": {"source": "digits"},
    "student": {"model": "m"},
    "objectives": {"ce": {}, "kd": {}, "clmkd.class_guided": {}},
    "train": {"epochs": 5, "batch": 8, "optimizer": {"lr": 0.1}},
}


def test_every_example_is_read():
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    searches = [experiment_from_dict(BASE | parse(text, "docs").value).search for text in examples]
    assert len(searches) == 3
    assert searches[0].space == "default" and searches[0].scheduler.type == "asha"
    assert [one.own_space.size() for one in searches[1:]] == [None, None]
    assert searches[2].own_space.texts()["method"] == "choice(kd, mcld, neither)"
    assert searches[2].own_space.changes({"train.optimizer.lr": 0.1, "method": "neither"})["objectives.kd"] is None
