"""CLMKD: contrastive learning-based multi-level knowledge distillation (Li et al., CAAI TIT 10(5), 2025).

Reconstruction: the paper's three modules are known by name and idea; the formulas are ours, built from named ancestors.
Here stands the composite `clmkd`; each module works alone as `clmkd.NAME`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from kdray.experiment.bounds import NonNegative
from kdray.objectives.ce import CE, CEConfig
from kdray.objectives.clmkd.class_guided import ClassGuided, ClassGuidedConfig
from kdray.objectives.clmkd.gradient_relation import GradientRelation, GradientRelationConfig
from kdray.objectives.clmkd.semantic_similarity import SemanticSimilarity, SemanticSimilarityConfig
from kdray.objectives.combine import Composite
from kdray.objectives.contract import Objective, ObjectiveConfig, StepInfo, WeightSchedule
from kdray.objectives.kd import KD, KDConfig
from kdray.objectives.registry import register


class InBatchClassGuidedConfig(ClassGuidedConfig):
    """`clmkd.class_guided` as the composite has it unless told otherwise: in the batch, weight 0.8."""

    weight_by_mode: ClassVar[dict[str, float]] = {"memory": 0.8, "inbatch": 0.8}

    mode: Literal["memory", "inbatch"] = "inbatch"
    weight: NonNegative = 0.8


class CLMKDConfig(ObjectiveConfig):
    """One sub-config per member, each with its own weight and schedule; the composite's own multiply them all.

    `taper_epochs`: the last epochs, in which `ce` alone is left (CRCD's 10 of 250).
    """

    taper_epochs: NonNegative = 0.0
    ce: CEConfig = CEConfig()
    kd: KDConfig = KDConfig()
    class_guided: InBatchClassGuidedConfig = InBatchClassGuidedConfig()
    gradient_relation: GradientRelationConfig = GradientRelationConfig()
    semantic_similarity: SemanticSimilarityConfig = SemanticSimilarityConfig()


@register("clmkd")
class CLMKD(Composite):
    """Cross-entropy, KD and the three modules of CLMKD in one objective."""

    config = CLMKDConfig
    provenance = "reconstruction"
    family = "contrastive"
    source = "CLMKD (CAAI TIT 2025), modules rebuilt from CRCKD, CRD, CRCD and MLKD"
    revision = 2  # that of its gradient relation
    members_of: ClassVar = {
        "ce": CE,
        "kd": KD,
        "class_guided": ClassGuided,
        "gradient_relation": GradientRelation,
        "semantic_similarity": SemanticSimilarity,
    }

    options: CLMKDConfig

    def _active(self, step: StepInfo) -> Iterator[tuple[str, Objective, float]]:
        taper = self.options.taper_epochs
        alone = taper > 0 and WeightSchedule(type="taper", epochs=taper).at(step.epoch, step.epochs) == 0.0
        for name, member, weight in super()._active(step):
            yield name, member, 0.0 if alone and name != "ce" else weight
