"""The experiments of one file: its only one, or one for each of its `variants:`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from kdray.errors import ConfigError, nearest
from kdray.experiment.common_keys import common, without
from kdray.experiment.matrix import Matrix
from kdray.experiment.schema import Cluster, Experiment

SHARED_KEYS = ("name", "cluster", "storage")  # a comparison is one run: these stand at the top of its file
SINGLE_KEYS = ("search",)  # what a file with variants cannot have
VARIANT_KEYS = tuple(key for key in Experiment.model_fields if key not in (*SHARED_KEYS, *SINGLE_KEYS))


@dataclass(frozen=True)
class Comparison:
    """Whole experiments by variant; a file without variants is one experiment under the name "".

    They share `name`, `cluster` and `storage`. Of a file with a matrix each cell is a variant, and `matrix` knows its
    coordinates.
    """

    experiments: Mapping[str, Experiment]
    matrix: Matrix | None = None

    @classmethod
    def of(cls, experiment: Experiment) -> Comparison:
        """The comparison of an experiment with nothing."""
        return cls({"": experiment})

    @property
    def has_variants(self) -> bool:
        """Whether the experiments are variants with names."""
        return "" not in self.experiments

    @property
    def first(self) -> Experiment:
        """The first one, for what all share."""
        return next(iter(self.experiments.values()))

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.first.name

    @property
    def cluster(self) -> Cluster:
        """What the run asks of the cluster."""
        return self.first.cluster

    @property
    def storage(self) -> str:
        """Where the run leaves its artifacts."""
        return self.first.storage

    def key_of(self, variant: str) -> str:
        """The dotted path below which errors name the keys of `variant`."""
        return f"variants.{variant}" if self.matrix is None else f"matrix.cells.{variant}"

    def with_experiments(self, experiments: Mapping[str, Experiment]) -> Comparison:
        """The same comparison of other experiments of the same names."""
        return replace(self, experiments=experiments)

    def only(self, names: Sequence[str], where: str = "--variant") -> Comparison:
        """Return the variants of these names, in the file's order; `*` in a name stands for any text.

        Raises:
            ConfigError: an unknown name, or a file without variants.
        """
        if not self.has_variants:
            raise ConfigError("the experiment has no variants", where=where, fix="Leave it out, or add variants:")
        for name in names:
            if not any(_named(variant, name) for variant in self.experiments):
                there = f"Variants: {', '.join(self.experiments)}"
                raise ConfigError(f"no variant {name!r}{nearest(name, self.experiments)}", where=where, fix=there)
        taken = {key: each for key, each in self.experiments.items() if any(_named(key, name) for name in names)}
        return Comparison(taken, self.matrix and self.matrix.only(taken))

    def plain(self) -> dict[str, Any]:
        """Plain values, defaults included, that are read back to an equal comparison.

        With a matrix, what all cells share stands at the top, and the rest as variants of the cells' names.
        """
        dumped = {name: each.model_dump(mode="json") for name, each in self.experiments.items()}
        if not self.has_variants:
            return dumped[""]
        shared = next(iter(dumped.values()))
        if self.matrix is not None:
            shared = common(list(dumped.values()))
            cells = {name: without(values, shared) for name, values in dumped.items()}
            return shared | {"variants": cells, "matrix": self.matrix.plain()}
        variants = {name: {key: values[key] for key in VARIANT_KEYS} for name, values in dumped.items()}
        return {key: shared[key] for key in SHARED_KEYS} | {"variants": variants}


def _named(variant: str, name: str) -> bool:
    return variant == name or ("*" in name and fnmatchcase(variant, name))
