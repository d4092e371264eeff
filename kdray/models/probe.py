"""Look at how a foreign module computes its logits: one forward on the meta device, every module call written down.

What is tapped is decided from that (`stages`, `tapped`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdray.errors import ModelError
from kdray.models.eager import flop_counter
from kdray.models.layout import Layout, layout_of

IMAGES = 2  # two, so that a batch dimension cannot be taken for another


@dataclass
class Call:
    """One run of a module: its inputs and outputs, and the runs inside it."""

    name: str
    module: nn.Module
    children: list[Call] = field(default_factory=list)
    inputs: tuple[Any, ...] = ()
    output: Any = None
    version: int = 0
    ending: str = ""  # the autograd node that made the output: names an activation that is a function call
    layout: Layout | None = None

    def inside(self) -> Iterator[Call]:
        """All runs inside this one, outer before inner, in order."""
        for child in self.children:
            yield child
            yield from child.inside()

    @property
    def changed_later(self) -> bool:
        """Whether a later in-place operation wrote into the output (then a tap has to copy it)."""
        return isinstance(self.output, Tensor) and self.output._version != self.version


@dataclass
class Trace:
    """What a probing forward saw."""

    root: Call
    output: Tensor
    flops: int


def main_output(value: Any) -> Tensor:
    """The logits (or features) among what a module returned: itself, the first of a tuple, or `logits`/`out`."""
    if isinstance(value, Tensor):
        return value
    for key in ("logits", "out"):
        if isinstance(value, Mapping) and key in value:
            return main_output(value[key])
        if hasattr(value, key):
            return main_output(getattr(value, key))
    if isinstance(value, (tuple, list)) and value:
        return main_output(value[0])
    raise ModelError(
        f"the model returns {type(value).__name__}",
        fix="return a tensor, a tuple whose first item is the logits, or something with .logits",
    )


def trace(module: nn.Module, image_size: int, device: str) -> Trace:
    """Run two blank images through `module` in eval mode and write down every module call.

    Raises ModelError when the module cannot take images of that size.
    """
    root = Call("", module)
    stack = [root]
    handles = []

    def enter(name: str) -> Any:
        def hook(owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = Call(name, owner, inputs=args or tuple(kwargs.values()))
            stack[-1].children.append(call)
            stack.append(call)

        return hook

    def leave(owner: nn.Module, args: Any, output: Any) -> None:
        call = stack.pop()
        call.output = output
        if isinstance(output, Tensor):
            call.version = output._version
            call.ending = type(output.grad_fn).__name__
            call.layout = layout_of(tuple(output.shape), IMAGES)

    modes = {part: part.training for part in module.modules()}
    for name, part in module.named_modules():
        if name:
            handles.append(part.register_forward_pre_hook(enter(name), with_kwargs=True))
            handles.append(part.register_forward_hook(leave))
    counter = flop_counter()
    try:
        module.eval()
        # Gradients on: fused inference paths (attention) would hide their products, and grad_fn names functions.
        with torch.enable_grad(), counter:
            root.output = module(torch.zeros(IMAGES, 3, image_size, image_size, device=device))
    except Exception as error:  # someone else's forward: whatever it raises is about these images
        # The first line says it; the rest is a listing of kernels.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"it cannot run on 3x{image_size}x{image_size} images: {reason}") from error
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes.items():
            part.training = mode
    return Trace(root, main_output(root.output), counter.get_total_flops() // IMAGES)


@contextlib.contextmanager
def quiet_random() -> Iterator[None]:
    """Whatever is drawn inside leaves the caller's random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        yield
