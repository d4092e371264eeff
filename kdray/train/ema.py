"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch

from kdray.models.outputs import Net


class Ema:
    """A shadow of `net` that follows it: shadow <- decay * shadow + (1 - decay) * net after each optimizer step.

    Float buffers (batch-norm statistics) are averaged too, integer ones copied. The decay grows as (1 + n) / (10 + n)
    up to `decay`, so that the shadow of a short run is not its random start.
    """

    def __init__(self, net: Net, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = copy.deepcopy(net).eval().requires_grad_(False)
        source, target = net.state_dict(), self.shadow.state_dict()
        self._float = [(target[k], source[k]) for k in target if target[k].is_floating_point()]
        self._other = [(target[k], source[k]) for k in target if not target[k].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the network's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        targets, sources = [t for t, _ in self._float], [s for _, s in self._float]
        torch._foreach_lerp_(targets, sources, 1 - decay)
        for target, source in self._other:
            target.copy_(source)

    def state_dict(self) -> dict:
        """State to checkpoint: the shadow's weights and the number of updates."""
        return {"updates": self.updates, "shadow": self.shadow.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict`."""
        self.updates = state["updates"]
        self.shadow.load_state_dict(state["shadow"])
