"""One set of objectives goes on with the heads and banks of another: hyper-parameters change, the state stays.

The very tensors go over, not copies: optimizers, DDP, averages and a deployed network that hold them notice nothing,
no bank is in the device's memory twice, and a sharded one needs no gathering.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.objectives.combine import ObjectiveSet

FIX = "The state that is there goes on from phase to phase: give all heads and banks their sizes from the start"


@dataclass(frozen=True)
class Difference:
    """What keeps an `objective` from going on with the state that is there, in words."""

    objective: str
    problem: str


def difference(before: ObjectiveSet, after: ObjectiveSet) -> Difference | None:
    """The first difference of the state that the two hold; None where one can go on with the other's."""
    old, new = ({name: _kind(tensor) for name, tensor in held(each).items()} for each in (before, after))
    for name in [*new, *old]:
        _, key, tensor = name.split(".", 2)
        objective = key.replace("/", ".")
        if name not in old:
            return Difference(objective, f"it needs state that is not there, {tensor} {new[name]}")
        if name not in new:
            return Difference(objective, f"it leaves state without use, {tensor} {old[name]}")
        if old[name] != new[name]:
            return Difference(objective, f"it changes the state {tensor} from {old[name]} to {new[name]}")
    return None


def take_over(after: ObjectiveSet, before: ObjectiveSet) -> None:
    """Give `after` all parameters and all saved buffers of `before`, which is of no use from then on.

    Raises:
        ConfigError: their state differs in names, shapes or kinds.
    """
    found = difference(before, after)
    if found is not None:
        raise ConfigError(f"objectives.{found.objective}: {found.problem}", where="phases", fix=FIX)
    for name, tensor in held(before).items():
        owner, _, key = name.rpartition(".")
        setattr(after.get_submodule(owner), key, tensor)
    after.load_state_dict({}, strict=False)  # loads nothing: what members derive from their state, they look up again


def held(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, as a state dict names them."""
    found: dict[str, Tensor] = {}
    for path, inner in module.named_modules():
        prefix = f"{path}." if path else ""
        found |= {f"{prefix}{key}": parameter for key, parameter in inner.named_parameters(recurse=False)}
        for key, buffer in inner.named_buffers(recurse=False):
            if key not in inner._non_persistent_buffers_set:
                found[f"{prefix}{key}"] = buffer
    return found


def _kind(tensor: Tensor) -> str:
    trained = "" if tensor.requires_grad or not isinstance(tensor, nn.Parameter) else ", frozen"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}{trained}"
