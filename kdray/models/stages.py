"""Choosing the stages of a foreign network from one probing forward.

Named modules are taken as they are. Otherwise one stage per resolution: walk the trunk (the root's calls, a container
opened where it holds more than two resolutions) and take the last module at each resolution before it shrinks. Runs
of modules without parameters (pooling in front of the classifier) are no stage. A network of one resolution (ViT,
Mixer) gives four of its repeated blocks, evenly spaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from torch import nn

from kdray.errors import ModelError, nearest
from kdray.models.layout import Layout
from kdray.models.probe import Call, Trace

RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
EVEN_BLOCKS = 4
SHRUNK = 0.75  # a border lost to an unpadded convolution is no new resolution
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.PReLU, nn.Mish)
FUNCTIONS = ("ReluBackward0", "GeluBackward0", "SiluBackward0", "HardtanhBackward0", "HardswishBackward0")


@dataclass(frozen=True)
class StageTap:
    """A stage: the output of module `name`.

    `copy`: a later in-place operation writes into that output. `preact`: the activation module that ends it, "" when
    it ends in none, None when it cannot be reached because it is a function call.
    """

    name: str
    layout: Layout
    copy: bool
    preact: str | None


def choose_stages(seen: Trace, names: list[str] | None, head: Call | None) -> tuple[StageTap, ...]:
    """The stages of a traced network: `names` if given, the four layers of a ResNet, else one per resolution.

    `head` is the run of the classifier: no stage is picked from there on.

    Raises ModelError when a name is no module, is never run, or gives no feature map.
    """
    calls = {call.name: call for call in seen.root.inside()}
    if names is None and all(name in calls and calls[name].layout for name in RESNET_STAGES):
        names = list(RESNET_STAGES)
    if names is not None:
        return tuple(_tap(_named(seen, calls, name), calls) for name in names)
    picked = _by_resolution(seen.root, head)
    if len(picked) < 2:
        picked = _even_blocks(seen.root) or picked
    return tuple(_tap(call, calls) for call in picked)


def _named(seen: Trace, calls: dict[str, Call], name: str) -> Call:
    modules = [known for known, _ in seen.root.module.named_modules() if known]
    if name not in modules:
        top = [known for known, _ in seen.root.module.named_children()]
        raise ModelError(
            f"no module {name!r}{nearest(name, modules)}", where="stages", fix=f"its parts are: {', '.join(top)}"
        )
    if name not in calls:
        raise ModelError(f"module {name!r} is not called in a forward", where="stages", fix="name a module that is")
    call = calls[name]
    if call.layout is None:
        got = list(call.output.shape) if hasattr(call.output, "shape") else type(call.output).__name__
        raise ModelError(
            f"module {name!r} gives {got}, which is no feature map",
            where="stages",
            fix="a stage is [n, C, H, W], [n, H, W, C] or patch tokens [n, T, D]",
        )
    return call


def _tap(call: Call, calls: dict[str, Call]) -> StageTap:
    assert call.layout is not None
    return StageTap(call.name, call.layout, call.changed_later, _activation(call, calls))


def _activation(call: Call, calls: dict[str, Call]) -> str | None:
    """Name of the activation module whose result is the stage, "" for none, None for one that is no module."""
    for inner in (call, *call.inside()):
        # `calls` holds a module's last run: one that runs again elsewhere would hand out the wrong input.
        if isinstance(inner.module, ACTIVATIONS) and inner.output is call.output and calls[inner.name] is inner:
            return inner.name
    return None if call.ending in FUNCTIONS else ""


def _trunk(call: Call, top: bool = True) -> list[Call]:
    """The chain of calls that carry the image, in order."""
    sides = {inner.layout.side for inner in call.inside() if inner.layout and inner.layout.side > 1}
    if not call.children or not (top or len(sides) > 2):
        return [call]
    return [part for child in call.children for part in _trunk(child, top=False)]


def _by_resolution(root: Call, head: Call | None) -> list[Call]:
    runs: list[list[Call]] = []
    side = 0
    for call in _trunk(root):
        if head is not None and any(part is head for part in (call, *call.inside())):
            break
        if call.layout is None or call.layout.kind == "tokens":
            continue
        if call.layout.side == 1 and side > 1 and not _has_parameters(call.module):
            break  # global pooling: what follows is the head
        if not runs or call.layout.side < SHRUNK * side:
            runs.append([])
        elif call.layout.side > side:
            continue
        side = call.layout.side
        runs[-1].append(call)
    return [run[-1] for run in runs if any(_has_parameters(call.module) for call in run)]


def _even_blocks(root: Call) -> list[Call]:
    best: list[Call] = []
    for parent in (root, *root.inside()):
        for _, group in groupby(parent.children, key=lambda child: (type(child.module), child.layout)):
            run = [child for child in group if child.layout]
            if len(run) > len(best) and _has_parameters(run[0].module):
                best = run
    if len(best) < EVEN_BLOCKS:
        return []
    return [best[round(len(best) * part / EVEN_BLOCKS) - 1] for part in range(1, EVEN_BLOCKS + 1)]


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
