"""`--list`: what an experiment file can name."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from kdray.objectives.contract import Needs
from kdray.pipeline.estimate import readable_count


def print_listing(what: str, console: Console) -> None:
    """Print the models, methods or sources that are there."""
    columns, rows = _LISTINGS[what]()
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _models() -> tuple[list[str], list[list[str]]]:
    from kdray.models.zoo import list_models

    rows = [[row.name, readable_count(row.parameters), row.source] for row in list_models()]
    rows.append(["torchvision/NAME", "", "any torchvision classifier; weights: DEFAULT or a file"])
    rows.append(["timm/NAME", "", "any timm classifier, when timm is installed"])
    rows.append(["package.module:callable", "", "your own; called with num_classes"])
    return ["model", "parameters (100 classes)", "source"], rows


def _methods() -> tuple[list[str], list[list[str]]]:
    from kdray.objectives.registry import list_methods

    rows = [[row.name, row.family, needs_in_words(row.needs), row.provenance, row.source] for row in list_methods()]
    return ["method", "family", "needs", "provenance", "source"], rows


def needs_in_words(needs: Needs) -> str:
    """What a method must be given beside images and the labels of the batch, such as "teacher (logits), 2 views"."""
    outputs = {"logits": needs.teacher_logits, "features": needs.teacher_pooled}
    of_teacher = ", ".join(name for name, wanted in outputs.items() if wanted)
    given = {
        "teacher" + (f" ({of_teacher})" if of_teacher else ""): needs.teacher,
        "stages": needs.stages,
        "pre-activations": needs.preact,
        f"{needs.min_views} views": needs.min_views > 1,
        "sample index": needs.index,
        "all labels": needs.labels,
    }
    return ", ".join(name for name, wanted in given.items() if wanted) or "-"


def _sources() -> tuple[list[str], list[list[str]]]:
    from kdray.data.sources import SOURCES, builtin_facts

    rows = []
    for name in SOURCES:
        facts = builtin_facts(name)
        rows.append([name, f"{facts.train} / {facts.test}", str(facts.classes), f"{facts.image_size} px"])
    rows.append(["shards", "", "", "data.train and data.test: folder, file, glob or URI of Parquet shards"])
    return ["source", "train / test images", "classes", ""], rows


_LISTINGS = {"models": _models, "methods": _methods, "sources": _sources}
