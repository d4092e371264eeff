"""A foreign module with the house's forward: hooks on its own modules hand out the pooled vector and the stages."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdray.errors import ModelError, nearest
from kdray.models.composed import Composed
from kdray.models.layout import layout_of
from kdray.models.outputs import ModelInfo, Net, Outputs
from kdray.models.probe import Call, Trace, main_output, trace
from kdray.models.stages import StageTap, choose_stages


@dataclass(frozen=True)
class TapPlan:
    """Where to tap: `head` is the module whose input is pooled ("" = the output itself is); `logits` says whether the
    output is logits at all; `removed` is the classifier that was taken off, if one was."""

    head: str
    logits: bool
    stages: tuple[StageTap, ...]
    info: ModelInfo
    removed: str = ""


def make_plan(
    module: nn.Module,
    name: str,
    num_classes: int | None,
    image_size: int,
    device: str,
    stages: list[str] | None,
    pooled: str | None,
    headless: bool = False,
) -> TapPlan:
    """Probe `module` and decide what to tap.

    The pooled vector is what enters the last Linear, when that Linear's output is the model's output. Without such a
    head it is what enters the last layer with weights (its mean over positions), or, for a model that is only a
    backbone (`num_classes` None), its output. `pooled` names the module to take it in front of. With `headless` the
    output is the pooled vector, whatever makes it.

    Raises ModelError when the images do not fit, a named module does not, or the logits have another width.
    """
    seen = trace(module, image_size, device)
    head = None if headless else _head(seen, num_classes, pooled)
    linear = head is not None and _makes_output(head, seen.output)
    logits = linear or num_classes is not None
    shape = tuple(seen.output.shape)
    if num_classes is not None and shape != (shape[0], num_classes):
        raise ModelError(
            f"it gives {list(shape[1:])} per image, the data has {num_classes} classes",
            fix="let its builder take num_classes",
        )
    taps = choose_stages(seen, stages, head)
    vector = pooled_vector(head.module, head.inputs[0]) if head else pooled_vector(None, seen.output)
    info = ModelInfo(
        name=name,
        num_classes=shape[1] if logits else None,
        pooled_dim=vector.shape[1],
        stage_shapes=tuple((tap.layout.channels, tap.layout.side, tap.layout.side) for tap in taps),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        flops=seen.flops,
        linear_head=linear,
        preact=all(tap.preact is not None for tap in taps),
    )
    return TapPlan(head.name if head else "", logits, taps, info)


def _makes_output(call: Call, output: Tensor) -> bool:
    return (
        isinstance(call.module, nn.Linear)
        and call.output is output
        and call.version == output._version
        and call.inputs[0].ndim == 2
    )


def _head(seen: Trace, num_classes: int | None, pooled: str | None) -> Call | None:
    calls = list(seen.root.inside())
    if pooled is not None:
        named = [call for call in calls if call.name == pooled]
        if not named:
            names = [call.name for call in calls]
            raise ModelError(
                f"no module {pooled!r} runs in a forward{nearest(pooled, names)}",
                where="pooled",
                fix="name the module that turns the pooled vector into logits",
            )
        if not (named[-1].inputs and isinstance(named[-1].inputs[0], Tensor)):
            raise ModelError(f"module {pooled!r} is not given a tensor", where="pooled", fix="name another module")
        return named[-1]
    linear = [call for call in calls if _makes_output(call, seen.output)]
    if linear:
        return linear[-1]
    if num_classes is None:
        return None
    weighted = [call for call in calls if isinstance(call.module, (nn.Linear, nn.Conv2d))]
    if not weighted:
        raise ModelError("no Linear or convolution makes its logits", where="pooled", fix="name the classifier module")
    return weighted[-1]


def pooled_vector(head: nn.Module | None, value: Tensor) -> Tensor:
    """Bring what enters the head (or, without one, the output) to `[n, d]` by the mean over positions."""
    if value.ndim == 2:
        return value
    layout = layout_of(tuple(value.shape), value.shape[0])
    if isinstance(head, nn.Linear) or value.ndim == 3 or (layout and layout.kind == "nhwc"):
        return value.flatten(1, -2).mean(1)
    return value.flatten(2).mean(2)


class _Board:
    """What the hooks of one network write to during one forward; it is empty between forwards."""

    def __init__(self) -> None:
        self.stages = self.preact = False
        self.pooled: Tensor | None = None
        self.maps: dict[int, Tensor] = {}
        self.pre: dict[int, Tensor] = {}

    def clear(self) -> None:
        self.stages = self.preact = False
        self.pooled = None
        self.maps, self.pre = {}, {}


class _Hook:
    """Hooks are objects, not closures, so that a copy of the network (an average of its weights) has its own board."""

    def __init__(self, board: _Board, number: int, copies: bool) -> None:
        self.board, self.number, self.copies = board, number, copies


class _KeepPooled(_Hook):
    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.board.pooled = args[0] if args else next(iter(kwargs.values()))


class _KeepMap(_Hook):
    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        # A stage without an activation is its own pre-activation: it is kept for either wish.
        if self.board.stages or self.board.preact:
            self.board.maps[self.number] = output.clone() if self.copies else output


class _KeepPreact(_Hook):
    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self.board.preact:
            self.board.pre[self.number] = args[0].clone() if self.copies else args[0]


class TappedNet(Net):
    """A plain module, tapped by a plan.

    A hook costs one comparison when nothing is asked for, and a copy where the module later writes into the tensor.
    """

    def __init__(self, backbone: nn.Module, plan: TapPlan, recipe: Mapping[str, Any] | None = None) -> None:
        super().__init__(backbone, plan.info, recipe)
        self.plan = plan
        self._board = _Board()
        if plan.head:
            keep = _KeepPooled(self._board, 0, False)
            backbone.get_submodule(plan.head).register_forward_pre_hook(keep, with_kwargs=True)
        for number, tap in enumerate(plan.stages):
            backbone.get_submodule(tap.name).register_forward_hook(_KeepMap(self._board, number, tap.copy))
            if tap.preact:
                activation = backbone.get_submodule(tap.preact)
                inplace = bool(getattr(activation, "inplace", False))
                activation.register_forward_pre_hook(_KeepPreact(self._board, number, inplace))

    @property
    def head_name(self) -> str | None:
        return self.plan.head if self.info.linear_head else None

    @property
    def removed_head(self) -> str | None:
        return self.plan.removed or None

    def forward(self, images: Tensor, stages: bool = False, preact: bool = False) -> Outputs:
        """As `Net.forward`. ModelError when `preact` is asked of a stage that ends in a functional activation."""
        if preact and not self.info.preact:
            hidden = next(tap.name for tap in self.plan.stages if tap.preact is None)
            raise ModelError(
                f"{self.info.name}: stage {hidden!r} ends in an activation that is no module",
                where="stages",
                fix="its pre-activation cannot be tapped; name stages that end in a module such as nn.ReLU",
            )
        board = self._board
        board.stages, board.preact = stages, preact
        try:
            output = main_output(self.backbone(images))
            entering = board.pooled if self.plan.head else output
            maps, pre = board.maps, board.pre
        finally:
            board.clear()
        if entering is None:
            raise ModelError(f"{self.info.name}: module {self.plan.head!r} did not run in this forward", where="pooled")
        if (stages or preact) and len(maps) < len(self.plan.stages):
            silent = [tap.name for number, tap in enumerate(self.plan.stages) if number not in maps]
            raise ModelError(f"{self.info.name}: {', '.join(silent)} did not run in this forward", where="stages")
        result = Outputs(output if self.plan.logits else None, pooled_vector(self._head(), entering))
        if stages:
            result.stages = [tap.layout.to_map(maps[number]) for number, tap in enumerate(self.plan.stages)]
        if preact:
            found = [pre.get(number, maps[number]) for number in range(len(self.plan.stages))]
            result.preact = [tap.layout.to_map(m) for tap, m in zip(self.plan.stages, found, strict=True)]
        return result

    def _head(self) -> nn.Module | None:
        return self.backbone.get_submodule(self.plan.head) if self.plan.head else None


def plain_copy(net: Net) -> nn.Module:
    """A copy of the backbone in eval mode without any of this file's hooks: what leaves the house.

    A composed network reads a stage of its student, so it keeps them.
    """
    plain = copy.deepcopy(net.backbone).eval()
    if isinstance(plain, Composed):
        return plain
    for part in plain.modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _Hook)]:
                del hooks[key]
                part._forward_pre_hooks_with_kwargs.pop(key, None)
    return plain
