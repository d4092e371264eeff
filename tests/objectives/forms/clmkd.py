from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "clmkd.class_guided", "mode": "inbatch", "dim": 7},
    {"type": "clmkd.class_guided", "mode": "memory", "dim": 7, "positives": 4, "negatives": 6},
    {"type": "clmkd.gradient_relation", "dim": 7, "anchors": 3},
    {"type": "clmkd.gradient_relation", "dim": 7, "anchors": 3, "source": "gradient", "negatives": "different_class"},
    {"type": "clmkd.gradient_relation", "dim": 7, "anchors": "batch", "source": "gradient", "symmetric": True},
    {"type": "clmkd.gradient_relation", "dim": 7, "target": "non_target", "gradient_temperature": 4},
    {"type": "clmkd.gradient_relation", "dim": 7, "mode": "memory", "bank_samples": 20, "symmetric": True},
    {"type": "clmkd.class_guided", "mode": "memory", "dim": 7, "positives": 4, "negatives": 6, "bank": "sharded"},
    {"type": "clmkd.gradient_relation", "dim": 7, "mode": "memory", "bank_samples": 20, "bank": "sharded"},
    {"type": "clmkd.semantic_similarity", "form": "gram_kl"},
    {"type": "clmkd.semantic_similarity", "form": "sp"},
    {"type": "clmkd.semantic_similarity", "form": "sp", "maps": True},
    {"type": "clmkd.semantic_similarity", "form": "centroid_kl"},
    {"type": "clmkd.semantic_similarity", "form": "align", "hidden": 8},
    {"type": "clmkd"},
]
DETACHED = [form for form in FORMS if form.get("form") == "centroid_kl" or form.get("symmetric")]
