"""MCLD: multi-perspective contrastive logit distillation (Wang and Zhou, arXiv 2411.10693).

Reconstruction: the paper's three terms are known by name and idea; the formulas are ours, built from named ancestors.
Here stands the composite `mcld`; each term works alone as `mcld.NAME`.
"""

from __future__ import annotations

from typing import ClassVar

from kdray.experiment.bounds import NonNegative
from kdray.objectives.ce import CE, CEConfig
from kdray.objectives.combine import Composite
from kdray.objectives.contract import ObjectiveConfig
from kdray.objectives.kd import KD, KDConfig
from kdray.objectives.mcld.category import Category, CategoryConfig
from kdray.objectives.mcld.instance import Instance, InstanceConfig
from kdray.objectives.mcld.sample import Sample, SampleConfig
from kdray.objectives.registry import register


class OptionalKDConfig(KDConfig):
    """`kd` as the composite has it unless told otherwise: left out."""

    weight: NonNegative = 0.0


class MCLDConfig(ObjectiveConfig):
    """One sub-config per member, each with its own weight and schedule; the composite's own multiply them all."""

    ce: CEConfig = CEConfig()
    kd: OptionalKDConfig = OptionalKDConfig()
    instance: InstanceConfig = InstanceConfig()
    sample: SampleConfig = SampleConfig()
    category: CategoryConfig = CategoryConfig()


@register("mcld")
class MCLD(Composite):
    """Cross-entropy and the three terms of MCLD in one objective; KD on request."""

    config = MCLDConfig
    provenance = "reconstruction"
    family = "contrastive"
    source = "MCLD (arXiv 2411.10693), terms rebuilt from InfoNCE, CKD and DIST"
    members_of: ClassVar = {"ce": CE, "kd": KD, "instance": Instance, "sample": Sample, "category": Category}
