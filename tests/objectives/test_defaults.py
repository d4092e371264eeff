"""Defaults are the published values, and the cards say them: a change of one has to be made here, with its source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdray.objectives import ObjectiveConfig, methods

CARDS = Path(__file__).parents[2] / "docs" / "methods"

TWENTY = {"type": "warmup", "epochs": 20}

CE = {"weight": 1, "label_smoothing": 0}
KD = {
    "weight": 1,
    "temperature": 4,
    "standardise": False,
}  # RepDistiller beside CE 1 and CRD; mdistiller has 0.9 and 0.1

# mdistiller's configurations for CIFAR-100, and where it lacks one the method's own repository.
LOGITS: dict[str, dict[str, Any]] = {
    "kd": KD,
    "dkd": {"weight": 1, "schedule": TWENTY, "alpha": 1, "beta": 8, "temperature": 4, "standardise": False},
    "nkd": {"weight": 1, "gamma": 1.5, "temperature": 1, "standardise": False},  # cls_KD, ImageNet
    "dist": {"weight": 2, "beta": 1, "gamma": 1, "temperature": 4, "standardise": False},
    "ctkd": {"weight": 0.9, "lowest": 1, "span": 20, "reversal": 1, "reversal_epochs": 10}
    | {"instance": False, "hidden": 64, "standardise": False},  # hidden: not published
    "ckd": {"weight": 100, "temperature": 1, "standardise": False},
    "mld": {"weight": 0.9, "temperatures": [4, 3, 5, 2, 6], "instance": 1, "batch": 1, "classes": 1}
    | {"select": "scale", "standardise": False},
}

# RepDistiller's scripts; ofd and review from mdistiller; the others from their authors' code.
FEATURES: dict[str, dict[str, Any]] = {
    "fitnet": {"weight": 100, "relu": True},
    "at": {"weight": 1000, "p": 2},
    "sp": {"weight": 3000},
    "cc": {"weight": 0.02, "dim": 128},
    "vid": {"weight": 1, "variance": 5, "floor": 1e-5},
    "rkd": {"weight": 1, "distance": 25, "angle": 50},
    "pkt": {"weight": 30000},
    "nst": {"weight": 50, "kernel": "polynomial"},
    "ofd": {"weight": 1e-3, "decay": 0.5, "margin_batches": 100},  # margin_batches: not published
    "review": {"weight": 5, "schedule": TWENTY, "student": "stages", "teacher": "preact"},
    "semckd": {"weight": 400, "quantiles": 64, "dim": 16},
    "simkd": {"weight": 1, "factor": 2},
    "srd": {"weight": 2, "exponent": 4, "eps": 1e-4},
    "srrl": {"weight": 1, "feature": 1, "regression": 1},
}

CONTRASTIVE: dict[str, dict[str, Any]] = {
    "crd": {"weight": 0.8, "bank_samples": 16384, "temperature": 0.07, "dim": 128, "momentum": 0.5}
    | {"negatives": "different_class"},
    "crcd": {"weight": 1, "gradient_weight": 1, "bank_samples": 500, "temperature": 0.05, "dim": 128, "momentum": 0.5}
    | {"anchors": 16, "gradient_temperature": 1, "source": "both"},  # published: all rows for anchors, and no T_g
    "supcon": {"weight": 1, "temperature": 0.07, "dim": 128, "with_teacher": True},
    "simclr": {"weight": 1, "temperature": 0.5, "dim": 128},
    "sskd": {"weight": 1, "ce": 0.1, "kd": 0.9, "transfer": 2.7, "similarity": 10, "temperature": 4}
    | {"similarity_temperature": 0.5, "transfer_keep": 1, "similarity_keep": 0.75},
    "mlkd.alignment": {"weight": 20, "multiplier": 16, "max_weights": 2**22},  # max_weights: not published
    "mlkd.correlation": {"weight": 50, "temperature": 0.5, "min_views": 4},
    "mlkd.supervised": {"weight": 1, "temperature": 0.07, "dim": 128},
}

# Nothing of these is published: the values are the ancestors' (CRCKD, CRD, CRCD, MLKD; CKD and CRD; CRD).
REBUILT: dict[str, dict[str, Any]] = {
    "clmkd.class_guided": {"weight": 0.8, "temperature": 0.07, "dim": 128, "positives": 20, "negatives": 4096}
    | {"momentum": 0.5, "mode": "memory"},
    "clmkd.gradient_relation": {"weight": 1, "temperature": 0.05, "gradient_temperature": 1, "anchors": 16}
    | {"bank_samples": 512, "momentum": 0.5, "dim": 128, "mode": "inbatch", "source": "both"},
    "clmkd.semantic_similarity": {"weight": 10, "temperature": 0.5, "momentum": 0.9, "form": "gram_kl"},
    "mcld.instance": {"weight": 1, "temperature": 0.1, "queue": 0, "mask": "exclude"},
    "mcld.sample": {"weight": 1, "temperature": 0.1, "queue": 0, "reading": "transposed"},
    "mcld.category": {"weight": 1, "schedule": TWENTY, "temperature": 0.1, "centre": False},
    "intra_class": {"weight": 0.02, "temperature": 0.1, "delta": 0.3, "cache": 16, "start_epoch": 0, "dim": 128}
    | {"margin": "probability"},
}

PARTS = {"ce": CE, **LOGITS, **FEATURES, **CONTRASTIVE, **REBUILT}

COMPOSED: dict[str, dict[str, Any]] = {
    "mlkd": {
        "weight": 1,
        "ce": CE | {"views": "first"},
        "correlation": PARTS["mlkd.correlation"],
        "supervised": PARTS["mlkd.supervised"],
        "alignment": PARTS["mlkd.alignment"],
    },
    "clmkd": {
        "weight": 1,
        "taper_epochs": 0,
        "ce": CE,
        "kd": KD,
        "class_guided": PARTS["clmkd.class_guided"] | {"mode": "inbatch"},
        "gradient_relation": PARTS["clmkd.gradient_relation"],
        "semantic_similarity": PARTS["clmkd.semantic_similarity"],
    },
    "mcld": {
        "weight": 1,
        "ce": CE,
        "kd": KD | {"weight": 0},
        "instance": PARTS["mcld.instance"],
        "sample": PARTS["mcld.sample"],
        "category": PARTS["mcld.category"],
    },
}

PUBLISHED = PARTS | COMPOSED


REPORTING = {"report_every"}
"""Fields that change what is reported and never the loss."""


def is_number(value: Any) -> bool:
    """Numbers and lists of them: what a source gives, and what a slip changes unseen."""
    return isinstance(value, int | float | list) and not isinstance(value, bool)


def compare(config: ObjectiveConfig, published: dict[str, Any], where: str) -> None:
    values = config.model_dump(mode="json")
    published = {"schedule": {"type": "constant", "epochs": 0}} | published
    assert set(published) <= set(values), where
    for field, value in values.items():
        inner = getattr(config, field)
        if isinstance(inner, ObjectiveConfig):
            compare(inner, published[field], f"{where}.{field}")
        elif field in published:
            assert value == published[field], f"{where}.{field}"
        elif field not in REPORTING:
            assert not is_number(value), f"{where}.{field} is a number that is not pinned here"


def test_every_method_is_here() -> None:
    assert sorted(PUBLISHED) == sorted(methods())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_defaults_are_the_published_values(name: str) -> None:
    compare(methods()[name].config(), PUBLISHED[name], name)


PROSE = {
    ("clmkd.class_guided", "weight"),  # another one by `mode`
    ("clmkd.class_guided", "mode"),  # another one in `clmkd`
    ("clmkd.semantic_similarity", "weight"),  # by `form`
    ("clmkd.semantic_similarity", "temperature"),
}
"""Defaults other than none that a card gives in words. Any other cell in words belongs to a default that is none."""

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")
WORDS = object()


def literal(text: str) -> Any:
    """What a piece of a cell says: a number, true, false, none, a list, `YAML` in backticks; WORDS for all else."""
    text = text.strip()
    if NUMBER.fullmatch(text):
        return float(text)
    if text in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text]
    quoted = re.fullmatch(r"`([^`]+)`|(\[[^\]]*\])", text)
    return yaml.safe_load(quoted[1] or quoted[2]) if quoted else WORDS


def pieces(cell: str) -> list[str]:
    """A cell at its commas, but for those inside brackets, braces and backticks."""
    return re.findall(r"(?:`[^`]*`|\[[^\]]*\]|\([^)]*\)|[^,])+", cell)


def rows(page: Path) -> list[tuple[str, str, Any]]:
    """(method, field, what the card says) of each table with the columns parameter and default."""
    found: list[tuple[str, str, Any]] = []
    top = method = page.stem
    inside = False
    for line in page.read_text().splitlines():
        heading = re.match(r"##+ (?:`([^`]+)`)?", line)
        if heading:
            method = heading[1] if heading[1] in methods() else top
        cells = [one.strip() for one in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) < 2:
            inside = False
        elif cells[:2] == ["parameter", "default"]:
            inside = True
        elif inside and not cells[0].startswith("---"):
            names, said = re.findall(r"`([^`]+)`", cells[0]), pieces(cells[1])
            whole = said if len(said) == len(names) else [cells[1]] * len(names)
            found += [(method, name, literal(text)) for name, text in zip(names, whole, strict=True)]
    return found


PAGES = sorted(page for page in CARDS.glob("*.md") if page.stem in PUBLISHED)


def test_how_a_cell_is_read() -> None:
    assert [literal(one) for one in pieces("0.8, `constant`")] == [0.8, "constant"]
    assert [literal(one) for one in pieces("1e-5")] == [1e-5] and literal("[4, 3]") == [4, 3]
    assert [literal(one) for one in pieces("1, `{type: warmup, epochs: 20}`")] == [1, TWENTY]
    assert literal("none") is None and literal("false") is False
    for words in ("the teacher's channels", "`memory` (`inbatch` in `clmkd`)", "0.8 with memory", "2 C_k"):
        assert literal(words) is WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_cards_say_the_defaults(page: Path) -> None:
    found = rows(page)
    assert found or methods()[page.stem].config.__name__ in ("CLMKDConfig", "MCLDConfig", "MLKDConfig")
    for method, field, said in found:
        assert field in methods()[method].config.model_fields, f"{method} has no {field}"
        default = methods()[method].config().model_dump(mode="json")[field]
        if said is WORDS:
            assert default is None or (method, field) in PROSE, f"{method}.{field} = {default!r} is not on its card"
        elif field == "schedule":
            wanted = {"type": said, "epochs": 0} if isinstance(said, str) else said
            assert default == wanted, f"{method}.schedule"
        else:
            assert default == said and isinstance(default, bool) == isinstance(said, bool), f"{method}.{field}"


def test_every_weight_is_on_a_card() -> None:
    """And nearly every other field: what is compared does not dwindle as tables are rewritten."""
    found = [row for page in PAGES for row in rows(page)]
    assert {method for method, field, _ in found if field == "weight"} == set(methods()) - set(COMPOSED)
    assert sum(said is not WORDS for _, _, said in found) > 200
