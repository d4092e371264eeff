"""Take a trained network out: plain weights with a card, or a program that needs nothing but torch.

The weights file holds the backbone's own state dict, so a torchvision or timm network loads with no code of this
project; the card (JSON) says how, and `load_exported` does it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch

from kdray.errors import ModelError
from kdray.models import composed
from kdray.models.outputs import Net
from kdray.models.registry import find
from kdray.models.tapped import plain_copy
from kdray.models.weights import load_weights
from kdray.models.zoo import build

FORMAT = "kdray.card/1"


def export_bytes(net: Net, card: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return a safetensors file of the plain state dict and its JSON card, to be stored as X.safetensors and X.json.

    Args:
        net: built by `zoo.build`.
        card: what only the caller knows, such as `mean` and `std` (per channel, of images in 0..1), accuracy, class
            names. Where both say something, what the network knows of itself stands.

    Raises ModelError when the network was not built from a recipe.
    """
    # Every key is written, a tied one as a copy of its own, so that plain load_state_dict finds all of them.
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in net.backbone.state_dict().items()
    }
    # One entry: several come out in another order each time, and equal weights would be unequal files.
    data = safetensors.torch.save(state, metadata={"format": "pt"})
    own: dict[str, Any] = {
        "format": FORMAT,
        **_recipe(net),
        "parameters": net.info.parameters,
        "pooled_dim": net.info.pooled_dim,
        "flops": net.info.flops,
        "sha256": sha256(data).hexdigest(),
        "keys": _layout(net),
        "load": _how_to_load(net),
    }
    # mean and std stand in every card: a user must see that they matter even where nobody gave them.
    return data, json.dumps({"mean": None, "std": None, **card, **own}, indent=2) + "\n"


def load_exported(card_uri: str) -> tuple[Net, dict[str, Any]]:
    """Build the network of a card X.json (a path, s3:// or gs://) and load X.safetensors beside it.

    Raises ModelError when the card or the weights are not what `export_bytes` writes.
    """
    try:
        card = json.loads(_read_text(card_uri))
    except ValueError as error:
        raise ModelError(f"{card_uri} is no JSON: {error}", where="card") from error
    needed = {"model", "num_classes", "image_size", "sha256"}
    if not isinstance(card, dict) or card.get("format") != FORMAT or not needed <= card.keys():
        raise ModelError(f"{card_uri} is not a card of an exported network ({FORMAT})", where="card")
    spec = SimpleNamespace(**{key: card.get(key) for key in ("model", "params", "stages", "pooled")})
    spec.classifier = card.get("classifier", True)  # cards from before there was a choice do not say
    net = build(spec, card["num_classes"], card["image_size"])
    report = load_weights(net, card_uri.removesuffix(".json") + ".safetensors")
    if report.sha256 != card["sha256"]:
        raise ModelError(f"{report.source} is not the file that {card_uri} describes", where="card")
    return net.eval(), card


def export_program(net: Net, path: str | Path) -> None:
    """Write the network as a `.pt2` program: `torch.export.load(path).module()(images)` gives logits `[n, C]`, or the
    pooled vector `[n, d]` of a network without a classifier.

    It takes normalised float32 images `[n, 3, S, S]` of the recipe's size and any n, runs in eval mode and needs only
    torch. The file is whole or absent. Raises ModelError when torch.export cannot trace the network.
    """
    size = _recipe(net)["image_size"]
    module = plain_copy(net).to("cpu", torch.float32)
    images = torch.zeros(2, 3, size, size)
    try:
        batch = {0: torch.export.Dim("batch", min=1)}
        with torch.no_grad():
            program = torch.export.export(module, (images,), dynamic_shapes=(batch,))
    except Exception as error:  # the tracer meets someone else's Python: it may raise anything
        raise ModelError(
            f"{net.info.name} cannot be exported as a program: {type(error).__name__}: {str(error).splitlines()[0]}",
            fix="export its weights and card instead",
        ) from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        torch.export.save(program, part)
        os.replace(part, path)


def _recipe(net: Net) -> dict[str, Any]:
    if not net.recipe:
        raise ModelError("the network carries no recipe", fix="build it with kdray.models.build")
    return net.recipe


def _layout(net: Net) -> str:
    name = net.info.name
    entry = find(name)
    if entry:
        return entry.layout
    if name == composed.NAME:
        return "kdray.models.composed: student.backbone of the student, projector, classifier"
    return f"{name} as that package defines it" if "/" in name else f"the module that {name} returns"


def _how_to_load(net: Net) -> str:
    name, classes = net.info.name, net.info.num_classes
    params = "".join(f", {key}={value!r}" for key, value in net.recipe["params"].items())
    load = "model.load_state_dict(safetensors.torch.load_file('the .safetensors beside this card'))"
    count = f", num_classes={classes}"
    if net.removed_head is not None:
        load, count = f"model.set_submodule({net.removed_head!r}, torch.nn.Identity()); {load}", ""
    if name.startswith("torchvision/"):
        plain = name.removeprefix("torchvision/")
        aux = ", aux_logits=False" if plain in ("googlenet", "inception_v3") and "aux_logits" not in params else ""
        return f"model = torchvision.models.get_model({plain!r}{count}{aux}{params}); {load}"
    if name.startswith("timm/"):
        plain = name.removeprefix("timm/")
        return f"model = timm.create_model({plain!r}{count}{params}); {load}"
    return f"net, card = kdray.models.export.load_exported(this file); or into {_layout(net)}: {load}"


def _read_text(uri: str) -> str:
    if "://" in uri:
        from kdray.store import read_uri

        return read_uri(uri).decode()
    try:
        return Path(uri).read_text()
    except OSError as error:
        raise ModelError(f"{uri} cannot be read: {error.strerror}", where="card") from error
