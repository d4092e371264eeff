"""What MCLD's row-wise losses share: which rows an anchor is compared with, and which of them count for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdray.objectives.contract import Gather, Targets
from kdray.objectives.gather import gather_rows, own_rows
from kdray.objectives.heads import off_diagonal
from kdray.objectives.mcld.queue import EMPTY, LogitQueue
from kdray.objectives.standardise import standardise

Inputs = Literal["logits", "probabilities", "standardised"]
Mask = Literal["none", "exclude", "multi_positive"]


def as_inputs(logits: Tensor, inputs: Inputs) -> Tensor:
    """Logits [n, C] as what is compared: themselves, their softmax, or each row at mean 0 and deviation 1."""
    if inputs == "probabilities":
        return F.softmax(logits, dim=1)
    return standardise(logits) if inputs == "standardised" else logits


@dataclass(frozen=True)
class Rows:
    """m anchors of this worker and the n candidates: the rows of the batch, then the entries of a queue.

    Attributes:
        itself: bool [m, n], the candidate at the anchor's own place.
        same_class: bool [m, n].
        same_sample: bool [m, n]: itself, its other views, rows that stand in for broken images.
        usable: bool [m, n], False for empty slots of the queue and for the anchor's own sample there.
    """

    itself: Tensor
    same_class: Tensor
    same_sample: Tensor
    usable: Tensor

    @staticmethod
    def of(targets: Targets, gather: Gather, queue: LogitQueue | None = None) -> Rows:
        """Compare this worker's rows with the local or the global batch, and with `queue`."""
        labels, index = targets.row_labels, targets.row_index
        own, all_labels, all_index = slice(0, len(labels)), labels, index
        if gather == "global":
            own, all_labels, all_index = own_rows(len(labels)), gather_rows(labels), gather_rows(index)
        itself = ~off_diagonal(len(labels), len(all_labels), own.start, labels.device)
        same_class, same_sample = labels[:, None] == all_labels, index[:, None] == all_index
        usable = torch.ones_like(itself)
        if queue is not None:
            own_entry = index[:, None] == queue.index
            itself = torch.cat([itself, torch.zeros_like(own_entry)], dim=1)
            same_class = torch.cat([same_class, labels[:, None] == queue.labels], dim=1)
            same_sample = torch.cat([same_sample, own_entry], dim=1)
            usable = torch.cat([usable, (queue.index != EMPTY) & ~own_entry], dim=1)
        return Rows(itself, same_class, same_sample, usable)

    def target_mask(self, mask: Mask) -> tuple[Tensor, Tensor]:
        """(positive, counted), bool [m, n]: what an anchor is pulled to, and what its softmax runs over.

        - `none`: itself; against all rows but those of its own sample.
        - `exclude`: itself; against the rows of other classes.
        - `multi_positive`: all rows of its class; against all rows.
        """
        if mask == "multi_positive":
            return self.usable & self.same_class, self.usable
        other = ~(self.same_class if mask == "exclude" else self.same_sample)
        return self.itself, self.itself | (self.usable & other)
