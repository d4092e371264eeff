"""MLKD, later called DLKD: knowledge alignment and correlation (Ding et al., arXiv 2012.00573, TNNLS 2024).

Here stands the composite `mlkd`; each part works alone as `mlkd.NAME`. Nothing reads the teacher's logits.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from kdray.objectives.ce import CE, CEConfig
from kdray.objectives.combine import Composite
from kdray.objectives.contract import ObjectiveConfig
from kdray.objectives.mlkd.alignment import Alignment, AlignmentConfig
from kdray.objectives.mlkd.correlation import Correlation, CorrelationConfig
from kdray.objectives.mlkd.supervised import Supervised, SupervisedConfig
from kdray.objectives.registry import register


class FirstViewCEConfig(CEConfig):
    """`ce` as the composite has it unless told otherwise: of the first view, the upright one."""

    views: Literal["all", "first"] = "first"


class MLKDConfig(ObjectiveConfig):
    """One sub-config per member, each with its own weight and schedule; the composite's own multiply them all."""

    ce: FirstViewCEConfig = FirstViewCEConfig()
    correlation: CorrelationConfig = CorrelationConfig()
    supervised: SupervisedConfig = SupervisedConfig()
    alignment: AlignmentConfig = AlignmentConfig()


@register("mlkd")
class MLKD(Composite):
    """Cross-entropy of the first view, correlation, supervised contrast and alignment of MLKD in one objective."""

    config = MLKDConfig
    provenance = "author-code"
    family = "contrastive"
    source = "MLKD / DLKD: Ding et al., arXiv 2012.00573, TNNLS 2024; github.com/ifding/DLKD"
    members_of: ClassVar = {"ce": CE, "correlation": Correlation, "supervised": Supervised, "alignment": Alignment}
