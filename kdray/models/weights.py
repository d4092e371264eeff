"""Load weights into a network, and say key by key what does not fit.

A URI is a file (`state`); for a `torchvision/` network also the name of published weights (DEFAULT, IMAGENET1K_V1),
for a `timm/` network `pretrained`. Published weights are fetched here, never while a network is built or described.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdray.errors import ModelError, nearest
from kdray.models import foreign
from kdray.models.meta import on_meta
from kdray.models.outputs import Net
from kdray.models.registry import entries
from kdray.models.state import StateFile, digest, read_state, strip_prefixes

SHOWN = 5
COUNTERS = "num_batches_tracked"  # old checkpoints lack them, and nothing but momentum=None reads them


@dataclass(frozen=True)
class LoadReport:
    """What was loaded.

    Attributes:
        keys: state dict keys that were filled.
        converted: keys whose type in the file differs, as "key: float16 -> float32".
        source: the URI, or the name of published weights.
        sha256: of the file's bytes (of keys and values for published weights).
    """

    keys: tuple[str, ...]
    converted: tuple[str, ...]
    source: str
    sha256: str


def load_weights(net: Net, uri: str, *, keep_head: bool = True) -> LoadReport:
    """Fill `net.backbone` from `uri`.

    Args:
        keep_head: False leaves the classifier as it was initialised (to train a published network on other classes).

    Raises:
        ModelError: the file cannot be used (see `read_state`), or its keys or shapes do not fit: the message counts
            and names what is missing, unexpected or of another shape. The network is left as it was.
        StoreError: object storage cannot be read.
    """
    file = _published(net, uri) or read_state(uri)
    own = net.backbone.state_dict()
    state = strip_prefixes(file.tensors, set(own))
    if net.removed_head is not None:  # weights of the whole network serve the one without its classifier
        state = {key: value for key, value in state.items() if not key.startswith(f"{net.removed_head}.")}
    if not keep_head and net.head_name is not None:
        heads = [key for key in own if key.startswith(f"{net.head_name}.")]
        state = {key: value for key, value in state.items() if key not in heads}
        own = {key: value for key, value in own.items() if key not in heads}
    _check(net, own, state, file.source)
    converted = [
        f"{key}: {_name(state[key].dtype)} -> {_name(value.dtype)}"
        for key, value in own.items()
        if key in state and state[key].dtype != value.dtype
    ]
    with torch.no_grad():
        for key, value in own.items():
            if key in state:
                value.copy_(state[key])
    return LoadReport(tuple(key for key in own if key in state), tuple(converted), file.source, file.sha256)


def _check(net: Net, own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    missing = [key for key in own if key not in state and not key.endswith(COUNTERS)]
    unexpected = sorted(key for key in state if key not in own and not key.endswith(COUNTERS))
    shapes = [key for key, value in own.items() if key in state and not _alike(state[key], value)]
    if not (missing or unexpected or shapes):
        _check_finite(state, source)
        return
    head = f"{net.head_name}." if net.head_name is not None else None
    only_head = all(head and key.startswith(head) and state[key].shape != own[key].shape for key in shapes)
    if only_head and not missing and not unexpected:
        classes = state[shapes[0]].shape[0]
        raise ModelError(
            f"{source} fits but for its classifier: the file has {classes} classes, the data {net.info.num_classes}",
            where="weights",
            fix="use weights trained on these classes",
        )
    parts = []
    if missing:
        parts.append(f"missing {len(missing)}: {_listed(missing)}")
    if unexpected:
        parts.append(f"unexpected {len(unexpected)}: {_listed(unexpected)}")
    if shapes:
        pairs = [f"{key} {_kind(state[key])} instead of {_kind(own[key])}" for key in shapes]
        parts.append(f"of another shape {len(shapes)}: {_listed(pairs)}")
    fitting = fitting_model(state)
    raise ModelError(
        f"{source} does not fit {net.info.name}: {'; '.join(parts)}",
        where="weights",
        fix=f"the file fits {fitting!r}" if fitting else f"{net.info.name} has {len(own)} keys, the file {len(state)}",
    )


def _alike(given: Tensor, own: Tensor) -> bool:
    # Integers in place of real numbers are quantised weights: copied as they are, they would mean something else.
    return given.shape == own.shape and given.is_floating_point() == own.is_floating_point()


def _kind(value: Tensor) -> str:
    return f"{list(value.shape)}" + ("" if value.is_floating_point() else f" {_name(value.dtype)}")


def _listed(items: Sequence[str]) -> str:
    rest = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _check_finite(state: Mapping[str, Tensor], source: str) -> None:
    bad = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise ModelError(
            f"{source} holds values that are not finite in {len(bad)} tensors: {_listed(bad)}",
            where="weights",
            fix="the run that wrote it had diverged; take an earlier checkpoint",
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def fitting_model(state: Mapping[str, Tensor]) -> str | None:
    """The zoo network that has exactly these keys and shapes, at any number of classes; None if there is none."""
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.endswith(COUNTERS)}
    for name, entry in entries().items():
        with on_meta():
            module = entry(1, {})
        head = f"{module.head_name}."
        own = {key: tuple(value.shape) for key, value in module.state_dict().items() if not key.endswith(COUNTERS)}
        same = all(key.startswith(head) or shapes.get(key) == shape for key, shape in own.items())
        if same and own.keys() == shapes.keys():
            return name
    return None


def is_published(model: str, weights: str | None) -> bool:
    """Whether `weights` names published weights of a torchvision or timm network, and not a file."""
    if weights is None or "/" in weights or "." in weights:
        return False
    return model.startswith("torchvision/") or (model.startswith("timm/") and weights == "pretrained")


def _published(net: Net, uri: str) -> StateFile | None:
    """Published weights of a torchvision or timm network, None when `uri` names a file."""
    name = net.info.name
    if not is_published(name, uri):
        return None
    library, _, short = name.partition("/")
    return _torchvision(net, short, uri) if library == "torchvision" else _timm(net, short)


def _torchvision(net: Net, name: str, choice: str) -> StateFile:
    import torchvision.models

    known = torchvision.models.get_model_weights(name)
    if choice not in known.__members__:
        names = list(known.__members__)
        raise ModelError(
            f"{choice!r} is neither a file nor weights of {net.info.name}{nearest(choice, names)}",
            where="weights",
            fix=f"published: {', '.join(names) or 'none'}",
        )
    weights = known[choice]
    # torchvision's own builder knows the old key names (densenet) and auxiliary heads of its files.
    twin = _fetch(net, choice, lambda: torchvision.models.get_model(name, weights=weights))
    own = net.backbone.state_dict()
    aux = ("AuxLogits.", "aux1.", "aux2.")  # auxiliary classifiers, which the network is built without
    state = {key: value for key, value in twin.state_dict().items() if key in own or not key.startswith(aux)}
    if hasattr(twin, "transform_input") and hasattr(net.backbone, "transform_input"):
        # These files expect another normalisation; torchvision switches it on with them.
        net.backbone.transform_input = twin.transform_input  # type: ignore[assignment]
    return StateFile(state, f"{net.info.name}:{weights.name}", digest(state))


def _timm(net: Net, name: str) -> StateFile:
    timm = foreign.import_timm()
    twin = _fetch(net, "pretrained", lambda: timm.create_model(name, pretrained=True, **net.recipe.get("params", {})))
    state = twin.state_dict()
    return StateFile(state, f"{net.info.name}:pretrained", digest(state))


def _fetch(net: Net, choice: str, build: Any) -> Any:
    try:
        with torch.random.fork_rng(devices=[]):
            return build()
    except Exception as error:  # a download, someone else's cache, a hash check: all are about this file
        raise ModelError(
            f"weights {choice!r} of {net.info.name} could not be fetched: {type(error).__name__}: {error}",
            where="weights",
            fix="download them where there is a network and give the file's path",
        ) from error
