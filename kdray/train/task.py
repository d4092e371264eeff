"""What is trained: a network and the objectives over it, and the frozen teacher beside them.

Only `Trainable` is wrapped by DDP. The teacher is no part of it: DDP would refuse parameters without gradients, and its
weights would be sent and stored with every checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kdray.data.batch import Batch, normalise
from kdray.data.mix import Mixer
from kdray.models.outputs import Net, Outputs
from kdray.objectives import ObjectiveSet, StepInfo, Targets
from kdray.objectives.contract import Mixed
from kdray.train.precision import Precision


@dataclass(frozen=True)
class Pixels:
    """Channel means and standard deviations (of RGB in 0..1) that a network was trained with."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def prepare(self, images: torch.Tensor, precision: Precision) -> torch.Tensor:
        """Normalise uint8 [n, 3, H, W] (mixed: float32 in 0..255) into the format that the forward pass runs in."""
        return normalise(images, self.mean, self.std, precision.dtype)


class Trainable(nn.Module):
    """A network and its objectives: everything that receives gradients."""

    net: Net
    objectives: ObjectiveSet

    def __init__(self, net: Net, objectives: ObjectiveSet) -> None:
        super().__init__()
        self.net = net
        self.objectives = objectives
        self.reported_only: frozenset[str] = frozenset()
        """Parts of the last step that have no weight in its total."""

    def forward(
        self,
        images: torch.Tensor,
        targets: Targets,
        teacher: Outputs | None,
        teacher_head: Sequence[nn.Linear | None],
        step: StepInfo,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the weighted total [] and the unweighted parts for `images` float [V*b, 3, H, W].

        `teacher_head` is a list of one: as a bare argument a module would be copied by some wrappers.
        """
        needs = self.objectives.needs
        student = self.net(images, stages=needs.stages, preact=needs.preact)
        report = self.objectives(targets, student, teacher, self.net.classifier, teacher_head[0], step)
        self.reported_only = frozenset(name for name in report.parts if report.weights[name] == 0.0)
        return report.total, report.parts


def shared_by_ranks(trainable: Trainable, device: torch.device) -> DistributedDataParallel:
    """`trainable`, whose gradients are the mean over all ranks.

    Running statistics are not broadcast: training never reads them, and rank 0's are the ones that count. Banks must
    not be: a sharded one's rows are the worker's own.
    """
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(trainable, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


class Teacher:
    """A frozen network: eval mode, no gradients, no part of any state dict."""

    def __init__(self, net: Net, pixels: Pixels, precision: Precision) -> None:
        self.net = net.eval().requires_grad_(False)
        self.pixels = pixels
        self.precision = precision

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, stages: bool, preact: bool) -> Outputs:
        """Outputs for normalised images [n, 3, H, W]."""
        with self.precision.autocast():
            return self.net(images, stages=stages, preact=preact)

    @property
    def head(self) -> nn.Linear | None:
        """The classifier, when it is one Linear."""
        return self.net.classifier


def micro_batches(batch: Batch, parts: int) -> list[Batch]:
    """Split a local batch into `parts` equal ones along its samples; every view of a sample stays with it."""
    if parts == 1:
        return [batch]
    size = len(batch.labels) // parts
    views = batch.images.unflatten(0, (batch.views, len(batch.labels)))
    pieces = []
    for start in range(0, parts * size, size):
        rows = slice(start, start + size)
        pieces.append(
            Batch(
                images=views[:, rows].flatten(0, 1),
                labels=batch.labels[rows],
                index=batch.index[rows],
                ids=batch.ids[rows],
                views=batch.views,
            )
        )
    return pieces


def pieces(
    batch: Batch, parts: int, mixer: Mixer | None, epoch: int, number: int
) -> Iterator[tuple[Batch, Mixed | None]]:
    """The `parts` micro-batches of a local batch, number `number` of `epoch`, mixed where `mixer` says so.

    Partners are found before the batch is cut, so that cutting changes no image.
    """
    cut = micro_batches(batch, parts)
    height, width = batch.images.shape[-2:]
    mixture = mixer.draw(epoch, number, (height, width)) if mixer else None
    if mixture is None:
        yield from ((piece, None) for piece in cut)
        return
    for piece, other in zip(cut, micro_batches(mixture.partners(batch), len(cut)), strict=True):
        images = mixture.apply(piece.images, other.images)
        yield replace(piece, images=images), Mixed(other.labels, mixture.share)
