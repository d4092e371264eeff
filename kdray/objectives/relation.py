"""What objectives on relations between samples and anchors share (CRCD, Zhu et al., CVPR 2021, arXiv 2103.16367)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor

from kdray.errors import ConfigError
from kdray.experiment.bounds import Count
from kdray.objectives.draws import Tag, draw
from kdray.objectives.heads import unit

if TYPE_CHECKING:
    from kdray.models.outputs import ModelInfo
    from kdray.objectives.contract import StepInfo

_SHORTEST = 1e-2

Anchors = Count | Literal["batch"]


def gradient_direction(
    logits: Tensor, labels: Tensor, weight: Tensor, temperature: float = 1.0, target: str = "full"
) -> Tensor:
    """Direction of the gradient of each row's own cross-entropy with respect to its pooled vector.

    g = W^T (softmax(z / T) - onehot(y)), unit length; logits [n, C], labels int64 [n], weight [C, d] -> [n, d].

    softmax - onehot = (1 - p_y) (q - onehot), q the softmax over the other classes, and unit length cancels the factor
    1 - p_y. So q - onehot is what is computed: it does not vanish, nor lose its digits, where the network is certain.
    `target="non_target"` leaves the onehot out.
    """
    own = F.one_hot(labels, logits.shape[1]).bool()
    others = (logits / temperature).masked_fill(own, -math.inf).softmax(dim=1)
    residual = others - own.to(others.dtype) if target == "full" else others
    return unit(residual @ weight)


def inverse_norm(x: Tensor) -> Tensor:
    """1 / sqrt(||x||^2 + 0.01^2) along the last dimension, for differences x of unit vectors.

    The direction from an anchor that nearly coincides with a row is noise, and 1 / ||x|| alone would multiply its
    gradient by as much: one pair 1e-4 apart in a batch outweighs all others.
    """
    return (x.square().sum(dim=-1) + _SHORTEST**2).rsqrt()


def anchor_rows(keys: Tensor, anchors: Anchors, step: StepInfo) -> Tensor:
    """Rows of the batch that serve as anchors, int64 [A]: those whose `keys` int64 [n] draw the smallest numbers at
    this step."""
    count = len(keys) if anchors == "batch" else min(anchors, len(keys))
    numbers = draw(keys, 1, seed=step.seed, step=step.step, tag=Tag.ANCHORS)[:, 0]
    return numbers.topk(count, largest=False).indices


def check_head(model: ModelInfo, role: str, num_classes: int) -> None:
    """Raise ConfigError where `model`, the `role`, has no gradient in closed form, or none to compare."""
    if not model.linear_head or model.num_classes is None:
        problem = f"the {role} {model.name} does not end in one Linear on its pooled vector: no gradient to read"
        raise ConfigError(problem, where="source", fix="Set it to feature")
    if num_classes < 2:
        raise ConfigError("one class has no gradient to compare", where="source", fix="Set it to feature")
