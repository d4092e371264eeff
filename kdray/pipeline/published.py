"""Published weights, checked by name and number of classes without fetching them."""

from __future__ import annotations

from kdray.errors import ModelError, nearest
from kdray.models.foreign import import_timm


def check_published(model: str, choice: str, num_classes: int | None) -> None:
    """Check that `choice` (IMAGENET1K_V1, pretrained) names weights of `model` for `num_classes` classes (None: any).

    Raises:
        ModelError: there are no such weights, or they are of another number of classes.
    """
    library, _, name = model.partition("/")
    classes = _torchvision(name, choice) if library == "torchvision" else _timm(name)
    if None not in (classes, num_classes) and classes != num_classes:
        raise ModelError(
            f"{choice!r} of {model} has {classes} classes, the data {num_classes}",
            where="weights",
            fix="Use weights trained on these classes, or leave weights out and train it first",
        )


def _torchvision(name: str, choice: str) -> int | None:
    import torchvision.models

    known = torchvision.models.get_model_weights(name).__members__
    if choice not in known:
        raise ModelError(
            f"{choice!r} is neither a file nor weights of torchvision/{name}{nearest(choice, known)}",
            where="weights",
            fix=f"Published: {', '.join(known) or 'none'}",
        )
    categories = known[choice].meta.get("categories")
    return len(categories) if categories else None


def _timm(name: str) -> int | None:
    facts = import_timm().get_pretrained_cfg(name)
    if facts is None or not facts.has_weights:
        raise ModelError(f"timm has no pretrained weights of {name!r}", where="weights", fix="Give a file of weights")
    return facts.num_classes
