"""The stages of an experiment, each named by the digest of all that makes its result.

A stage that builds on another has that one's folder in its own digest, so that what follows from a fresh teacher is
fresh too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kdray.data.augment import output_size
from kdray.data.dataset import Dataset
from kdray.errors import ConfigError
from kdray.experiment import Balance, Data, Experiment, ModelSpec, Student, Teacher, Train, digest_of
from kdray.models.weights import is_published
from kdray.objectives.balance import resolve
from kdray.objectives.registry import needs, normalise, revisions
from kdray.pipeline.naming import named
from kdray.pipeline.shelf import ARTIFACTS, Shelf
from kdray.pipeline.user_code import models_in, references, source_digests
from kdray.store import Store, read_uri
from kdray.train.spec import NetSpec, StageSpec

FORMAT = 1  # raise when the same experiment must give another result: every artifact is then made anew
EVALUATION_KEYS = ("eval_transform", "validation", "limit", "test_limit")
TEACHER_AUGMENT = "teacher.data.augment"
# A student that is taught by labels alone is the one student, whichever of an experiment's stages made it.
TWINS = {"student": "student_alone", "student_alone": "student"}
WHERE_DATA_LIES = ("train", "test", "root", "source", "samples", "classes")


@dataclass(frozen=True)
class Stage:
    """One stage of a plan: what its workers are told, and how far an earlier run got.

    `name` is the stage's own in the plan: its kind, with the variant's name where variants have stages of their own.
    `variant` is the (first) one that it belongs to. `floor` is the accuracy that a teacher must reach, `floor_of` the
    variant that asks for it.
    """

    name: str
    title: str
    spec: StageSpec
    digest: str
    done: bool
    checkpoint: str | None
    variant: str = ""
    floor: float | None = None
    floor_of: str = ""

    @property
    def kind(self) -> str:
        """`teacher`, `student_alone` or `student`."""
        return self.spec.name


@dataclass(frozen=True)
class Draft:
    """A stage before it has a folder. `name` is its kind; `weights` and `teacher_weights` are digests of given weights.

    `teacher` is the network that teaches, without its weights' URI when an earlier stage trains it. `balance` has all
    its parts named.
    """

    name: str
    title: str
    net: NetSpec
    weights: str | None
    objectives: dict[str, Any]
    train: Train | None
    teacher: NetSpec | None = None
    teacher_weights: str | None = None
    balance: Balance | None = None


def file_digest(uri: str) -> str:
    """Sha256 of the bytes at `uri`."""
    return hashlib.sha256(read_uri(uri)).hexdigest()


def draft_stages(
    experiment: Experiment, judged: bool, digest_weights: Callable[[str], str] = file_digest
) -> list[Draft]:
    """Return the stages of `experiment` in the order in which they run.

    `judged` says whether there is anything to evaluate a teacher on: one that brings its weights and cannot be judged
    needs no stage.

    Raises:
        ConfigError: objectives that do not parse, or that need a teacher where there is none; a balance of parts that
            are not there.
        StoreError: weights that are not there.
    """
    drafts: list[Draft] = []
    taught: Draft | None = None
    if experiment.teacher is not None:
        taught = _teacher(experiment, experiment.teacher, digest_weights)
        if taught.train is not None or judged or experiment.student is None:
            drafts.append(taught)
    if experiment.student is not None:
        net, weights = _given(experiment.student, "student", digest_weights)
        if experiment.student.alone:
            alone = normalise({"ce": {}})
            drafts.append(Draft("student_alone", "student alone", net, weights, alone, experiment.train))
        objectives = normalise(experiment.objectives)
        balance = resolve(experiment.balance, objectives) if experiment.balance is not None else None
        draft = Draft("student", "student", net, weights, objectives, experiment.train, balance=balance)
        if needs(objectives).teacher:
            if taught is None:
                name = next(n for n in objectives if needs({n: objectives[n]}).teacher)
                fix = "Add teacher: {model: NAME, weights: URI}, or leave the objective out"
                raise ConfigError("this objective needs a teacher", where=f"objectives.{name}", fix=fix)
            draft = replace(draft, title="student distilled", teacher=taught.net, teacher_weights=taught.weights)
        drafts.append(draft)
    return drafts


def _teacher(experiment: Experiment, teacher: Teacher, digest_weights: Callable[[str], str]) -> Draft:
    net, weights = _given(teacher, "teacher", digest_weights)
    if weights is not None:
        return Draft("teacher", "teacher", net, weights, {}, None)
    objectives = normalise(teacher.objectives, "teacher.objectives")
    if needs(objectives, "teacher.objectives").teacher:
        name = next(n for n in objectives if needs({n: objectives[n]}, "teacher.objectives").teacher)
        fix = "Train it with ce, or give teacher.weights"
        raise ConfigError("a teacher has no teacher itself", where=f"teacher.objectives.{name}", fix=fix)
    return Draft("teacher", "teacher", net, None, objectives, teacher.train or experiment.train)


def _given(model: Teacher | Student, role: str, digest_weights: Callable[[str], str]) -> tuple[NetSpec, str | None]:
    """The network of `role` with the weights that the experiment names, and the digest of those weights."""
    spec = ModelSpec(**{field: getattr(model, field) for field in ModelSpec.model_fields})
    if spec.weights is None:
        return NetSpec(spec, None, role), None
    if is_published(spec.model, spec.weights):
        return NetSpec(spec, spec.weights, role), spec.weights
    with named(f"{role}.weights"):
        uri = Store(spec.weights).uri
        return NetSpec(spec, uri, role), digest_weights(uri)


def place_stage(
    experiment: Experiment,
    dataset: Dataset,
    draft: Draft,
    taught: str | None,
    shelf: Shelf,
    planned: str | None,
    fresh: bool,
) -> Stage:
    """Give `draft` its folder in the store.

    `taught` is the folder of the teacher that an earlier stage trains, `planned` the folder that this run has used for
    the stage so far.
    """
    identity = identity_of(experiment, dataset, draft, taught)
    digest = digest_of(identity)
    folder = _folder(draft, digest, shelf, planned, fresh)
    teacher = draft.teacher
    if teacher is not None and draft.teacher_weights is None:
        teacher = replace(teacher, weights=shelf.store.path_uri(f"{taught}/model.safetensors"))
    data, seen = data_of(experiment, dataset, draft)
    spec = StageSpec(
        name=draft.name,
        store=shelf.store.uri,
        folder=folder,
        net=draft.net,
        data=data,
        dataset=seen,
        evaluate=experiment.evaluate,
        seed=experiment.seed,
        device=experiment.cluster.device,
        teacher=teacher,
        objectives=draft.objectives,
        balance=draft.balance,
        train=draft.train,
        identity={"digest": digest, "folder": folder, "model": draft.net.spec.model, "made_of": identity},
    )
    done = shelf.done(folder)
    return Stage(draft.name, draft.title, spec, digest, done, None if done else shelf.checkpoint(folder))


def base_digests(experiment: Experiment, dataset: Dataset, drafts: list[Draft]) -> list[str]:
    """Digests of the stages, whatever generation they are of: what they are told apart by before they have folders."""
    digests: list[str] = []
    taught: str | None = None
    for draft in drafts:
        digests.append(digest_of(identity_of(experiment, dataset, draft, taught)))
        if draft.name == "teacher":
            taught = f"{ARTIFACTS}/{_stem(draft.name, digests[-1])}"
    return digests


def _folder(draft: Draft, digest: str, shelf: Shelf, planned: str | None, fresh: bool) -> str:
    folder = shelf.folder(_stem(draft.name, digest), planned, fresh)
    if draft.name in TWINS and not (fresh or planned or shelf.done(folder) or shelf.checkpoint(folder)):
        twin = shelf.folder(_stem(TWINS[draft.name], digest), None, False)
        return twin if shelf.done(twin) else folder
    return folder


def identity_of(experiment: Experiment, dataset: Dataset, draft: Draft, taught: str | None) -> dict[str, Any]:
    """All that makes the result of `draft`; `taught` is the folder of the teacher that an earlier stage trained."""
    source: dict[str, Any] | None = None
    if draft.teacher is not None:
        given = draft.teacher_weights
        source = {"weights": given} if given is not None else {"artifact": str(taught).rpartition("/")[2]}
        source = source | {"model": draft.teacher.spec.canonical(results_only=True) | {"weights": None}}
    data = _data_identity(data_of(experiment, dataset, draft)[0], training=draft.train is not None)
    models = [*models_in(draft.net.spec), *(models_in(draft.teacher.spec) if draft.teacher is not None else [])]
    code = source_digests(references(models, draft.objectives))
    revised = revisions(draft.objectives) if draft.objectives else {}
    return {
        **({"code": code} if code else {}),
        **({"revisions": revised} if revised else {}),
        **({"balance": draft.balance.canonical()} if draft.balance is not None else {}),
        "format": FORMAT,
        "kind": "train" if draft.train else "evaluate",
        "model": draft.net.spec.canonical(results_only=True) | {"weights": draft.weights},
        "data": data | {"fingerprints": dataset.fingerprints(), "classes": dataset.num_classes},
        "pixels": [list(dataset.mean), list(dataset.std)],
        "teacher": source,
        "objectives": draft.objectives,
        "evaluate": experiment.evaluate.canonical(results_only=True),
        "train": draft.train.canonical(results_only=True) if draft.train else None,
        "seed": experiment.seed if draft.train else None,
    }


def data_of(experiment: Experiment, dataset: Dataset, draft: Draft) -> tuple[Data, Dataset]:
    """What the stage of `draft` is told of the data: a teacher that is trained may have its own views and augment."""
    if draft.name != "teacher" or draft.train is None or experiment.teacher_data == experiment.data:
        return experiment.data, dataset
    data = experiment.teacher_data
    return data, replace(dataset, train_size=output_size(data.augment, None, TEACHER_AUGMENT, data.views))


def _stem(kind: str, digest: str) -> str:
    return f"{kind}-{digest[:16]}"


def _data_identity(data: Data, training: bool) -> dict[str, Any]:
    """The part of `data` that changes a stage's result: not where it lies, nor, for an evaluation, training's part."""
    plain = {key: value for key, value in data.canonical(results_only=True).items() if key not in WHERE_DATA_LIES}
    if not training:
        plain = {key: value for key, value in plain.items() if key in EVALUATION_KEYS}
    return plain
