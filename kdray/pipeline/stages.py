"""The stages of an experiment, each named by the digest of all that makes its result.

An artifact's folder is `artifacts/STAGE-DIGEST`, with `.2`, `.3`, ... for runs started over by `--fresh`. A stage that
builds on another has that one's folder in its own digest, so that what follows from a fresh teacher is fresh too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from kdray.data.dataset import Dataset
from kdray.errors import ConfigError
from kdray.experiment import Data, Experiment, ModelSpec, Part, Student, Teacher, Train, digest_of
from kdray.models.weights import is_published
from kdray.objectives.registry import needs, normalise
from kdray.store import Store, read_uri
from kdray.train.spec import NetSpec, StageSpec

FORMAT = 1  # raise when the same experiment must give another result: every artifact is then made anew
ARTIFACTS = "artifacts"
EVALUATION_KEYS = ("eval_transform", "validation", "limit", "test_limit")
WHERE_DATA_LIES = ("train", "test", "root", "source", "samples", "classes")


@dataclass(frozen=True)
class Stage:
    """One stage of a plan: what its workers are told, and how far an earlier run got."""

    title: str
    spec: StageSpec
    digest: str
    done: bool
    checkpoint: str | None

    @property
    def name(self) -> str:
        """`teacher`, `student_alone` or `student`."""
        return self.spec.name


def plan_stages(experiment: Experiment, dataset: Dataset, fresh: bool = False) -> list[Stage]:
    """Return the stages of `experiment` in the order in which they run.

    Raises:
        ConfigError: objectives that do not parse, or a stage without anything to train on.
        ModelError, StoreError: weights that are not there.
    """
    planner = _Planner(experiment, dataset, fresh)
    stages: list[Stage] = []
    taught: NetSpec | None = None
    if experiment.teacher is not None:
        stage, taught = planner.teacher(experiment.teacher)
        judged = dataset.test is not None or dataset.validation is not None
        if stage.spec.train is not None or judged or experiment.student is None:
            stages.append(stage)
    if experiment.student is not None:
        if experiment.student.alone:
            stages.append(planner.student(experiment.student, None, {"ce": {}}, "student_alone", "student alone"))
        objectives = normalise(experiment.objectives)
        if needs(objectives).teacher and taught is None:
            name = next(n for n in objectives if needs({n: objectives[n]}).teacher)
            fix = "Add teacher: {model: NAME, weights: URI}, or leave the objective out"
            raise ConfigError("this objective needs a teacher", where=f"objectives.{name}", fix=fix)
        title = "student distilled" if taught is not None else "student"
        stages.append(planner.student(experiment.student, taught, objectives, "student", title))
    return stages


class _Planner:
    def __init__(self, experiment: Experiment, dataset: Dataset, fresh: bool) -> None:
        self.experiment = experiment
        self.dataset = dataset
        self.fresh = fresh
        self.store = Store(experiment.storage)

    def teacher(self, teacher: Teacher) -> tuple[Stage, NetSpec]:
        spec = ModelSpec(**{name: getattr(teacher, name) for name in ModelSpec.model_fields})
        if teacher.weights is not None:
            net, sha = self._given(spec, "teacher")
            stage = self._stage("teacher", "teacher", net, sha, None, None, {}, None)
            return stage, net
        train = teacher.train or self.experiment.train
        objectives = normalise(teacher.objectives, "teacher.objectives")
        net = NetSpec(spec, None, "teacher")
        stage = self._stage("teacher", "teacher", net, None, None, None, objectives, train)
        weights = self.store.path_uri(f"{stage.spec.folder}/model.safetensors")
        return stage, replace(net, weights=weights)

    def student(
        self, student: Student, taught: NetSpec | None, objectives: dict[str, Any], name: str, title: str
    ) -> Stage:
        spec = ModelSpec(**{field: getattr(student, field) for field in ModelSpec.model_fields})
        net, sha = self._given(spec, "student")
        source: dict[str, Any] | None = None
        if taught is not None and needs(objectives).teacher:
            inside = taught.weights is not None and taught.weights.startswith(self.store.path_uri(ARTIFACTS))
            assert taught.weights is not None
            folder = taught.weights.rpartition("/")[0].rpartition("/")[2]
            source = {"artifact": folder} if inside else {"weights": self._given(taught.spec, "teacher")[1]}
            source = source | {"model": taught.spec.canonical(results_only=True) | {"weights": None}}
        else:
            taught = None
        return self._stage(name, title, net, sha, taught, source, objectives, self.experiment.train)

    def _given(self, spec: ModelSpec, role: str) -> tuple[NetSpec, str | None]:
        """A network with the weights that its spec names, and the digest of those weights."""
        if spec.weights is None:
            return NetSpec(spec, None, role), None
        if is_published(spec.model, spec.weights):
            return NetSpec(spec, spec.weights, role), spec.weights
        uri = Store(spec.weights).uri
        return NetSpec(spec, uri, role), hashlib.sha256(read_uri(uri)).hexdigest()

    def _stage(
        self,
        name: str,
        title: str,
        net: NetSpec,
        weights_sha: str | None,
        teacher: NetSpec | None,
        teacher_source: dict[str, Any] | None,
        objectives: dict[str, Any],
        train: Train | None,
    ) -> Stage:
        experiment = self.experiment
        data = _data_identity(experiment.data, training=train is not None)
        identity: dict[str, Any] = {
            "format": FORMAT,
            "kind": "train" if train else "evaluate",
            "model": net.spec.canonical(results_only=True) | {"weights": weights_sha},
            "data": data | {"fingerprints": self.dataset.fingerprints(), "classes": self.dataset.num_classes},
            "pixels": [list(self.dataset.mean), list(self.dataset.std)],
            "teacher": teacher_source,
            "objectives": objectives,
            "evaluate": experiment.evaluate.canonical(results_only=True),
            "train": train.canonical(results_only=True) if train else None,
            "seed": experiment.seed if train else None,
        }
        digest = digest_of(identity)
        folder = self._folder(name, digest)
        here = self.store.sub(folder)
        done = here.exists("record.json")
        checkpoints = [] if done else [n for n in here.list("checkpoints") if n.endswith(".pt")]
        spec = StageSpec(
            name=name,
            store=self.store.uri,
            folder=folder,
            net=net,
            data=experiment.data,
            dataset=self.dataset,
            evaluate=experiment.evaluate,
            seed=experiment.seed,
            device=experiment.cluster.device,
            teacher=teacher,
            objectives=objectives,
            train=train,
            identity={"digest": digest, "folder": folder, "model": net.spec.model, "made_of": identity},
        )
        return Stage(title, spec, digest, done, max(checkpoints) if checkpoints else None)

    def _folder(self, name: str, digest: str) -> str:
        """The newest generation of this artifact, or with `--fresh` the one after it."""
        stem = f"{name}-{digest[:16]}"
        there = [generation(entry, stem) for entry in self.store.list(ARTIFACTS)]
        newest = max(there, default=0)
        number = newest + 1 if self.fresh else max(newest, 1)
        return f"{ARTIFACTS}/{stem}" + (f".{number}" if number > 1 else "")


def generation(entry: str, stem: str) -> int:
    """1 for `stem` itself, n for `stem.n`, 0 for anything else."""
    entry = entry.rstrip("/")
    if entry == stem:
        return 1
    head, _, tail = entry.rpartition(".")
    return int(tail) if head == stem and tail.isdecimal() else 0


def _data_identity(data: Data, training: bool) -> dict[str, Any]:
    """The part of `data` that changes a stage's result: not where it lies, nor, for an evaluation, training's part."""
    plain = {key: value for key, value in data.canonical(results_only=True).items() if key not in WHERE_DATA_LIES}
    if not training:
        plain = {key: value for key, value in plain.items() if key in EVALUATION_KEYS}
    return plain


def run_digest(experiment: Experiment) -> str:
    """Digest of a whole experiment, its objectives in plain form; names the run's folder."""
    parts: dict[str, Any] = {field: getattr(experiment, field) for field in type(experiment).model_fields}
    for field in ("name", "storage", "cluster"):
        parts.pop(field)
    parts["objectives"] = normalise(experiment.objectives) if experiment.objectives else {}
    if experiment.teacher is not None:
        parts["teacher"] = experiment.teacher.canonical(results_only=True) | {
            "objectives": normalise(experiment.teacher.objectives, "teacher.objectives")
        }
    parts["alone"] = experiment.student.alone if experiment.student else False
    return digest_of({key: value for key, value in parts.items() if value is not None or isinstance(value, Part)})
