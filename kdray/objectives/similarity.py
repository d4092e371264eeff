"""Similarities between samples as distributions: shared by MLKD, CLMKD's gram_kl and a reading of MCLD."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdray.objectives.heads import HIDDEN, unit


def similarity_kl(
    student: Tensor,
    teacher: Tensor,
    student_columns: Tensor,
    teacher_columns: Tensor,
    temperature: float,
    seen: Tensor | None = None,
) -> Tensor:
    """Mean over rows a of KL(softmax_j(cos(t_a, t_j) / tau) || softmax_j(cos(s_a, s_j) / tau)), no tau^2.

    student [m, d_s], teacher [m, d_t]; their columns [n, d_s], [n, d_t]; `seen` bool [m, n] tells which columns a row
    is compared with (None: all).
    """

    def log_p(rows: Tensor, columns: Tensor) -> Tensor:
        logits = unit(rows) @ unit(columns).T / temperature
        return F.log_softmax(logits if seen is None else logits.masked_fill(~seen, HIDDEN), dim=1)

    return F.kl_div(
        log_p(student, student_columns), log_p(teacher, teacher_columns), reduction="batchmean", log_target=True
    )
