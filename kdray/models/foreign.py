"""Networks from elsewhere, each by its prefix: `torchvision/NAME`, `timm/NAME`, `package.module:callable`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kdray.errors import ModelError, nearest

RESERVED = {"weights": "weights:", "pretrained": "weights:", "num_classes": "the data"}


def is_foreign(name: str) -> bool:
    """Whether a model name carries one of the prefixes."""
    return name.startswith(("torchvision/", "timm/")) or ":" in name


def construct(name: str, num_classes: int | None, image_size: int, params: Mapping[str, Any]) -> nn.Module:
    """Build the plain module, without weights.

    Raises ModelError for an unknown name, a parameter that the network does not take, or a builder that fails.
    """
    for key in params:
        if key in RESERVED:
            raise ModelError(f"{key!r} does not belong here", where="params", fix=f"it comes from {RESERVED[key]}")
    if name.startswith("torchvision/"):
        return _torchvision(name.removeprefix("torchvision/"), num_classes, image_size, params)
    if name.startswith("timm/"):
        return _timm(name.removeprefix("timm/"), num_classes, image_size, params)
    return _callable(name, num_classes, params)


def takes_classes(name: str) -> bool:
    """Whether the builder of a foreign network is told the number of classes, hence makes a classifier of them."""
    if ":" not in name:
        return True
    parameters = _parameters_of(_import_callable(name))
    return "num_classes" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def torchvision_names() -> list[str]:
    """All classifiers of torchvision."""
    import torchvision.models

    return torchvision.models.list_models(module=torchvision.models)


def _torchvision(name: str, num_classes: int | None, image_size: int, params: Mapping[str, Any]) -> nn.Module:
    import torchvision.models

    names = torchvision_names()
    if name not in names:
        raise ModelError(
            f"torchvision has no classifier {name!r}{nearest(name, names)}",
            fix="python -c 'import torchvision.models as m; print(*m.list_models(module=m))' lists them",
        )
    builder = torchvision.models.get_model_builder(name)
    accepted = accepted_parameters(builder)
    _check_parameters(f"torchvision/{name}", params, accepted)
    arguments = dict(params)
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if "image_size" in accepted:
        arguments.setdefault("image_size", image_size)
    if name in ("googlenet", "inception_v3"):
        # Nothing here trains auxiliary classifiers: without a gradient they would only break distributed training.
        arguments.setdefault("aux_logits", False)
        arguments.setdefault("init_weights", True)
    return _call(f"torchvision/{name}", builder, arguments)


def _timm(name: str, num_classes: int | None, image_size: int, params: Mapping[str, Any]) -> nn.Module:
    timm = import_timm()
    plain = name.split(".")[0]
    if not timm.is_model(plain):
        raise ModelError(
            f"timm has no model {name!r}{nearest(plain, timm.list_models())}",
            fix="python -c 'import timm; print(*timm.list_models())' lists them",
        )
    accepted = accepted_parameters(timm.model_entrypoint(plain))
    _check_parameters(f"timm/{name}", params, accepted)
    arguments = dict(params)
    # 0 is timm's way of saying: no classifier.
    arguments["num_classes"] = num_classes or 0
    if "img_size" in accepted:
        arguments.setdefault("img_size", image_size)
    return _call(f"timm/{name}", lambda **rest: timm.create_model(name, pretrained=False, **rest), arguments)


def import_timm() -> Any:
    """The timm package; ModelError saying how to get it when it is not installed."""
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ModelError("timm is not installed", fix="pip install kdray[timm]") from error


def _callable(name: str, num_classes: int | None, params: Mapping[str, Any]) -> nn.Module:
    builder = _import_callable(name)
    parameters = _parameters_of(builder)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not anything:
        _check_parameters(name, params, [key for key in parameters if key != "num_classes"])
    arguments = dict(params)
    if num_classes is not None and ("num_classes" in parameters or anything):
        arguments["num_classes"] = num_classes
    module = _call(name, builder, arguments)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{name} returned {type(module).__name__}, not a torch.nn.Module")
    return module


def _parameters_of(builder: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    if inspect.isclass(builder) and builder.__init__ is nn.Module.__init__:
        return {}  # its (*args, **kwargs) only looks as if it took anything
    try:
        return inspect.signature(builder).parameters
    except ValueError:  # written in C: it does not say
        return {}


def _import_callable(name: str) -> Callable[..., Any]:
    path, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), *attribute.split("."))):
        raise ModelError(f"{name!r} is not of the form package.module:callable")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # a network beside the experiment, as with `python -m`
    try:
        found: Any = importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or path
        own = path == missing or path.startswith(missing + ".")
        raise ModelError(
            f"no module {missing!r}" if own else f"{path} needs the module {missing!r}, which is not installed",
            where=name,
            fix=f"looked in {os.getcwd()} and the installed packages" if own else f"pip install {missing}",
        ) from error
    except Exception as error:  # whatever a user's file raises while it is imported
        raise ModelError(f"importing {path} failed: {type(error).__name__}: {error}", where=name) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{path} has no {part!r}{nearest(part, dir(found))}", where=name)
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{attribute} is {type(found).__name__}, not something to call", where=name)
    return found


def accepted_parameters(builder: Callable[..., Any]) -> list[str]:
    """Parameters of a builder and, when it passes the rest on, of the class that it says it returns."""
    signature = inspect.signature(builder, eval_str=True)
    names = [key for key, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD]
    made = signature.return_annotation
    if len(names) < len(signature.parameters) and inspect.isclass(made) and made is not signature.empty:
        names += [key for key, p in inspect.signature(made).parameters.items() if p.kind is not p.VAR_KEYWORD]
    hidden = {*RESERVED, "progress", "block", "layers", "args"}
    return [key for key in dict.fromkeys(names) if key not in hidden]


def _check_parameters(name: str, params: Mapping[str, Any], accepted: list[str]) -> None:
    for key in params:
        if key not in accepted:
            raise ModelError(
                f"{name} knows no parameter {key!r}{nearest(key, accepted)}",
                where="params",
                fix=f"it takes: {', '.join(accepted) or 'none'}",
            )


def _call(name: str, builder: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    try:
        return builder(**arguments)
    except ModelError:
        raise
    except Exception as error:  # a builder of someone else's: whatever it raises is about these arguments
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ModelError(f"{name}({given}) failed: {type(error).__name__}: {error}") from error
