"""Whether a run streams any data: then CPUs must be kept for it before the first stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kdray.data.dataset import Dataset, Split
from kdray.data.feed import will_stream
from kdray.evaluate.knn import TRAIN_IMAGES
from kdray.experiment import Experiment
from kdray.pipeline.members import Member


def any_streams(members: Iterable[Member]) -> bool:
    """Whether one of the feeds that the members' stages will open streams."""
    return any(
        will_stream(member.experiment.data, split.manifest, rows, judged)
        for member in members
        for split, rows, judged in _feeds(member.experiment, member.dataset)
    )


def how_kept(member: Member) -> str:
    """Words for a plan: whether the member's images are streamed, and whether they had better not be."""
    if not any_streams([member]):
        return "resident"
    data, train = member.experiment.data, member.dataset.train
    if data.mode != "stream" or train is None or not train.manifest.image_bytes:
        return "streamed"
    if will_stream(data.model_copy(update={"mode": "auto"}), train.manifest, len(train)):
        return "streamed"
    return "streamed, though small: data.mode auto would decode them once and keep them"


def _feeds(experiment: Experiment, dataset: Dataset) -> Iterator[tuple[Split, int, bool]]:
    """The splits that are read, how many rows of each, and whether by evaluation, whose images it keeps transformed."""
    if dataset.train is not None:
        yield dataset.train, len(dataset.train), False
    for split in (dataset.validation, dataset.test):
        if split is not None:
            yield split, len(split), True
    if dataset.train is None or dataset.test is None:
        return
    probe = experiment.evaluate.linear_probe
    if probe is not None:
        yield dataset.train, min(len(dataset.train), probe.limit or len(dataset.train)), True
    if any(net is not None and not net.classifier for net in (experiment.teacher, experiment.student)):
        yield dataset.train, min(len(dataset.train), TRAIN_IMAGES), True
