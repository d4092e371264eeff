"""What training rows are kept, and what labels they are given: few-shot subsets and label noise.

Both are functions of the sample ids and a seed of the data's own, never the experiment's: every seed and every method
trains on the same images with the same labels, in every mode and with any number of workers.
"""

from __future__ import annotations

import numpy as np

from kdray.data.draws import unit_hash
from kdray.errors import DataError
from kdray.experiment import LabelNoise

_KEPT, _CHOSEN, _MOVED, _CLASS = 4, 5, 6, 7  # tags of draws; those of the order are 1 to 3


def part_of_classes(rows: np.ndarray, labels: np.ndarray, ids: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Keep `fraction` of every class among the dense `rows` int64 [n], but at least one row; int64, ascending.

    `labels` and `ids` int64 [N] are those of the whole set. Rows are taken in the order of a hash of their ids, so a
    larger fraction holds all rows of a smaller one.
    """
    if fraction == 1:
        return rows
    classes = labels[rows]
    order = np.lexsort((unit_hash(seed, ids[rows], _KEPT), classes))
    _, first, counts = np.unique(classes[order], return_index=True, return_counts=True)
    kept = np.maximum(1, np.rint(counts * fraction))
    place = np.arange(len(rows)) - np.repeat(first, counts)  # within the row's class
    return np.sort(rows[order][place < np.repeat(kept, counts)])


def with_noise(
    labels: np.ndarray, rows: np.ndarray, ids: np.ndarray, noise: LabelNoise, num_classes: int
) -> np.ndarray:
    """Return `labels` int64 [N] with noise on the dense `rows` int64 [n] alone; `ids` int64 [N].

    round(fraction * n) rows are chosen by a hash of their ids, so more noise keeps the rows of less. permute exchanges
    their labels among themselves, which leaves some as they were (DLKD's loader); uniform gives each another class,
    all equally likely; pair gives the class one up, the last class the first.

    Raises:
        DataError: there is no other class.
    """
    if num_classes < 2:
        fix = "Leave label_noise out"
        raise DataError("the data has one class, so no label can be another", where="data.label_noise", fix=fix)
    number = round(noise.fraction * len(rows))
    chosen = rows[np.argsort(unit_hash(noise.seed, ids[rows], _CHOSEN), kind="stable")[:number]]
    right = labels[chosen]
    noisy = labels.copy()
    match noise.type:
        case "permute":
            noisy[chosen] = right[np.argsort(unit_hash(noise.seed, ids[chosen], _MOVED), kind="stable")]
        case "uniform":
            other = np.floor(unit_hash(noise.seed, ids[chosen], _CLASS) * (num_classes - 1)).astype(np.int64)
            noisy[chosen] = (right + 1 + other) % num_classes
        case "pair":
            noisy[chosen] = (right + 1) % num_classes
    return noisy
