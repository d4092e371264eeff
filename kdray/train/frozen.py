"""A teacher made ready: it never changes, so its batch norms can be folded into the convolutions before them.

Folding saves a pass over every feature map. Which batch norm follows which convolution is seen in one forward on random
images; the folded network is compared with the original there, and dropped if it is not the same function.
"""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdray.models.outputs import Net, Outputs
from kdray.train.precision import Precision
from kdray.train.task import Pixels, Teacher

log = logging.getLogger(__name__)
TOLERANCE = 1e-3  # of the largest activation; float32 rounding through a hundred layers stays well below it


def freeze(net: Net, pixels: Pixels, precision: Precision, image_size: int) -> Teacher:
    """Return `net` as a teacher: eval mode, no gradients, batch norms folded where that is exact."""
    net = net.eval().requires_grad_(False)
    return Teacher(fold_batch_norms(net, image_size), pixels, precision)


@torch.no_grad()
def fold_batch_norms(net: Net, image_size: int) -> Net:
    """Return a copy of `net` (eval mode) without the batch norms that follow a convolution, or `net` itself."""
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(2, 3, image_size, image_size, generator=generator).to(device)
    folded = copy.deepcopy(net)
    pairs = [pair for pair in _pairs(folded, probe) if not any(_tapped(folded.get_submodule(name)) for name in pair)]
    for conv_name, norm_name in pairs:
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        fused = fuse_conv_bn_eval(conv, norm)
        _replace(folded, conv_name, fused)
        _replace(folded, norm_name, nn.Identity())
    wanted, got = (one(probe, stages=True, preact=net.info.preact) for one in (net, folded))
    if not _same(wanted, got):
        log.warning("batch norms of the teacher could not be folded exactly; it runs as it is")
        return net
    return folded.requires_grad_(False)


def _pairs(net: Net, probe: torch.Tensor) -> list[tuple[str, str]]:
    """Names of each convolution whose output enters a batch norm and nothing else, with that batch norm."""
    made: dict[int, tuple[str, torch.Tensor]] = {}
    found: list[tuple[str, str, torch.Tensor]] = []
    uses: dict[str, int] = {}
    handles = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):

            def note(_m: nn.Module, _i: object, output: torch.Tensor, name: str = name) -> None:
                uses[name] = uses.get(name, 0) + 1
                made[id(output)] = (name, output)  # the tensor is held so that its id is not given out again

            handles.append(module.register_forward_hook(note))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:

            def match(_m: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
                uses[name] = uses.get(name, 0) + 1
                if id(inputs[0]) in made:
                    found.append((made[id(inputs[0])][0], name, inputs[0]))

            handles.append(module.register_forward_pre_hook(match))
    try:
        # With a graph, for it knows who else reads a convolution's output: a residual sum, say.
        with torch.enable_grad():
            outputs = net(probe.clone().requires_grad_(), stages=True, preact=net.info.preact)
    finally:
        for handle in handles:
            handle.remove()
    readers = _readers(outputs)
    return [
        (conv, norm)
        for conv, norm, tensor in found
        if uses[conv] == 1 and uses[norm] == 1 and readers.get(tensor.grad_fn, 0) == 1
    ]


def _readers(outputs: Outputs) -> dict[object, int]:
    """How many operations (or outputs) read the result of each operation of the graph behind `outputs`."""
    readers: dict[object, int] = {}
    waiting = [tensor.grad_fn for tensor in _tensors(outputs)]
    seen: set[object] = set()
    for node in waiting:
        readers[node] = readers.get(node, 0) + 1
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            if following is not None:
                readers[following] = readers.get(following, 0) + 1
                waiting.append(following)
    return readers


def _tapped(module: nn.Module) -> bool:
    """Whether somebody listens to this module, as a foreign network's stages are had; it must stay."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def _tensors(outputs: Outputs) -> list[torch.Tensor]:
    logits = [] if outputs.logits is None else [outputs.logits]
    return [*logits, outputs.pooled, *outputs.stages, *outputs.preact]


def _same(a: Outputs, b: Outputs) -> bool:
    pairs = zip(_tensors(a), _tensors(b), strict=True)
    return all(bool((x - y).abs().max() <= TOLERANCE * x.abs().max().clamp_min(1e-6)) for x, y in pairs)
