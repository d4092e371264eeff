"""What every network gives: one forward yields logits, the pooled vector and the feature maps of its stages.

`Net` wraps a plain module (`.backbone`, which is what gets saved and exported) and knows nothing of distillation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from torch import Tensor, nn


@dataclass
class Outputs:
    """One forward of a network.

    Attributes:
        logits: `[n, C]`, or None for a network without a classifier.
        pooled: `[n, d]`, the vector that enters the last Linear (the penultimate feature of the literature).
        stages: feature maps `[n, C_l, H_l, W_l]`, shallow to deep, after the stage's activation; [] unless asked for.
        preact: the same maps before that activation; [] unless asked for. A stage without a final activation (a linear
            bottleneck) stands here as it is.
    """

    logits: Tensor | None
    pooled: Tensor
    stages: Sequence[Tensor] = field(default_factory=list)
    preact: Sequence[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a network before any of it is allocated.

    Attributes:
        name: as in the experiment file, such as `resnet20` or `torchvision/resnet18`.
        num_classes: width of the logits, None without a classifier.
        pooled_dim: d of the pooled vector.
        stage_shapes: `(C, H, W)` of every stage, shallow to deep.
        parameters: number of parameters, trainable or not (buffers not counted).
        flops: floating point operations of one image's forward in convolutions and matrix products, a multiply-add
            counted as 2; None when not counted.
        linear_head: whether the logits are exactly one Linear on the pooled vector.
        preact: whether the stages can be had before their activation.
    """

    name: str
    num_classes: int | None
    pooled_dim: int
    stage_shapes: tuple[tuple[int, ...], ...] = ()
    parameters: int = 0
    flops: int | None = None
    linear_head: bool = True
    preact: bool = True


class Tapped(Protocol):
    """A backbone that hands out its own features: all networks of the CIFAR zoo."""

    head_name: str
    stage_names: tuple[str, ...]

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs: ...


class Net(nn.Module):
    """A network with the house's one forward.

    Args:
        backbone: a module that implements `Tapped`; its own `forward` gives plain logits, or the pooled vector
            without a classifier.
        info: what `describe` says of it.
        recipe: the arguments that build it again (model, params, stages, pooled, classifier, num_classes,
            image_size): plain values, they go into an exported card.
        chosen: which of the backbone's stages are handed out, in this order; None for all.
    """

    def __init__(
        self,
        backbone: nn.Module,
        info: ModelInfo,
        recipe: Mapping[str, Any] | None = None,
        chosen: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.info = info
        self.recipe: dict[str, Any] = dict(recipe or {})
        self.chosen = chosen

    def forward(self, images: Tensor, stages: bool = False, preact: bool = False) -> Outputs:
        """Run `images` (float `[n, 3, H, W]`, normalised); feature maps are kept only when asked for."""
        outputs = cast(Tapped, self.backbone).taps(images, stages, preact)
        if self.chosen is not None:
            outputs.stages = [outputs.stages[number] for number in self.chosen if stages]
            outputs.preact = [outputs.preact[number] for number in self.chosen if preact]
        return outputs

    @property
    def head_name(self) -> str | None:
        """Name, inside `.backbone`, of the Linear that makes the logits; None when the head is anything else."""
        return cast(Tapped, self.backbone).head_name if self.info.linear_head else None

    @property
    def removed_head(self) -> str | None:
        """Name, inside `.backbone`, of the classifier that was taken off; None where there is one, or never was."""
        return None if self.info.num_classes is not None else cast(Tapped, self.backbone).head_name

    @property
    def classifier(self) -> nn.Linear | None:
        """The Linear that turns `pooled` into `logits`, or None when the head is anything else."""
        name = self.head_name
        return None if name is None else cast(nn.Linear, self.backbone.get_submodule(name))
