"""Relational knowledge distillation: distances between two samples, angles between three.

Both are taken from inner products of centred features, so no tensor of [B, B, d] is made; the angles of all triplets
are gone through in pieces, forward and backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdray.experiment.bounds import NonNegative
from kdray.objectives.contract import Gather, Needs, Objective, ObjectiveConfig, StepInfo, Targets
from kdray.objectives.gather import gather_rows, own_rows
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs

PIECE = 1 << 22
"""Angles that are held at once (times some eight tensors of them; a piece is at least one vertex, n * n angles)."""
_ONE_POINT = 1e-6
"""Of squared lengths: points nearer to each other than 1e-3 of their distance from the centre count as one, because
rounding decides in which direction one lies of the other (the same image twice, say)."""


class RKDConfig(ObjectiveConfig):
    """`distance` and `angle` weigh the two parts; `gather`: relations in the global batch, or among a worker's."""

    distance: NonNegative = 25.0
    angle: NonNegative = 50.0
    gather: Gather = "global"

    @model_validator(mode="after")
    def _one_is_left(self) -> RKDConfig:
        if self.distance == 0 and self.angle == 0:
            raise ValueError("distance and angle are both 0: nothing is left of it")
        return self


@dataclass(frozen=True)
class Geometry:
    """Points by their mutual relations: inner products `gram` [n, n] from the centre, `distance` [n, n] and its
    `inverse`, both exactly 0 (with zero gradient) where two points are one."""

    gram: Tensor
    distance: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Geometry:
        """The geometry of the rows of x [n, d]."""
        # Distances do not depend on the origin; from the centre their digits are not lost in a common offset.
        x = x - x.mean(dim=0)
        gram = x @ x.T
        lengths = gram.diagonal()[:, None] + gram.diagonal()[None, :]
        squared = lengths - 2.0 * gram
        apart = squared > _ONE_POINT * lengths
        distance = torch.where(apart, squared, 1.0).sqrt()
        return cls(gram, torch.where(apart, distance, 0.0), torch.where(apart, 1.0 / distance, 0.0))

    def in_units_of_the_mean(self) -> Tensor:
        """Distances [n, n] divided by the mean of those above 0."""
        total, count = self.distance.sum(), (self.distance > 0).sum()
        return self.distance / torch.where(count > 0, total / count.clamp_min(1), 1.0)


def distance_loss(student: Geometry, teacher: Geometry, own: slice) -> Tensor:
    """Mean over `own` rows x all of SmoothL1(D_s, D_t), each in units of its own mean."""
    return F.smooth_l1_loss(student.in_units_of_the_mean()[own], teacher.in_units_of_the_mean()[own])


def _cosines(gram: Tensor, inverse: Tensor, vertices: slice) -> Tensor:
    """cos of the angle j-i-k for i in `vertices`: [c, n, n]; 0 where i is j or k."""
    own = gram[vertices]
    at_vertex = gram.diagonal()[vertices]
    inner = gram[None] - own[:, :, None] - own[:, None, :] + at_vertex[:, None, None]
    return inner * inverse[vertices][:, :, None] * inverse[vertices][:, None, :]


def _angle_sum(gram_s: Tensor, inverse_s: Tensor, gram_t: Tensor, inverse_t: Tensor, vertices: slice) -> Tensor:
    student, teacher = _cosines(gram_s, inverse_s, vertices), _cosines(gram_t, inverse_t, vertices)
    return F.smooth_l1_loss(student, teacher, reduction="sum")


def angle_loss(student: Geometry, teacher: Geometry, own: slice) -> Tensor:
    """Mean over vertices i in `own` and all j, k of SmoothL1(cos jik of the student, of the teacher).

    A piece keeps nothing for its gradient and is computed again in the backward pass: what is held never grows with
    n^3.
    """
    count = len(student.gram)
    start, stop, _ = own.indices(count)
    size = max(1, PIECE // count**2)
    pieces = [slice(at, min(at + size, stop)) for at in range(start, stop, size)]
    everything = (student.gram, student.inverse, teacher.gram, teacher.inverse)
    if len(pieces) == 1:
        total = _angle_sum(*everything, pieces[0])
    else:
        total = student.gram.new_zeros(())
        for piece in pieces:
            some = checkpoint(_angle_sum, *everything, piece, use_reentrant=False, preserve_rng_state=False)
            assert isinstance(some, Tensor)
            total = total + some
    return total / ((stop - start) * count**2)


@register("rkd")
class RKD(Objective):
    """Distances between pairs and angles in triplets of samples, kept from teacher to student."""

    config = RKDConfig
    provenance = "author-code"
    family = "relational"
    source = "Park, Kim, Lu, Cho, CVPR 2019 (arXiv 1904.05068)"
    mixable = True
    # The published 25 and 50; the overall weight would say the same again.
    search_space: ClassVar = {"distance": "loguniform(5, 100)", "angle": "loguniform(5, 100)"}
    options: RKDConfig

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_pooled=True)

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        return {"distance": self.options.distance, "angle": self.options.angle}

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        assert teacher is not None
        s, t, own = student.pooled, teacher.pooled, slice(0, len(student.pooled))
        if self.options.gather == "global":
            s, t, own = gather_rows(s), gather_rows(t), own_rows(len(s))
        of_student, of_teacher = Geometry.of(s), Geometry.of(t)
        parts = {}
        if self.options.distance > 0:
            parts["distance"] = distance_loss(of_student, of_teacher, own)
        if self.options.angle > 0:
            parts["angle"] = angle_loss(of_student, of_teacher, own)
        return parts
