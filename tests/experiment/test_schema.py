"""The typed experiment itself: strictness, bounds and the checks between keys."""

import pytest
from pydantic import ValidationError

from kdray.experiment import (
    Checkpointing,
    Cluster,
    Data,
    Experiment,
    LrRule,
    ModelSpec,
    Optimizer,
    Schedule,
    Student,
    Teacher,
    Train,
)
from kdray.experiment.part import Part

PARTS = tuple(f"kdray.experiment.{module}" for module in ("schema", "data_part", "mix_part", "train_part"))
OPTIMIZER = {"lr": 0.1}
TRAIN = {"epochs": 10, "batch": 8, "optimizer": OPTIMIZER}
DATA = {"source": "digits"}
STUDENT = {"model": "resnet8"}


def experiment(**changes):
    values = {"data": DATA, "student": STUDENT, "objectives": {"ce": {"weight": 1}}, "train": TRAIN, **changes}
    return Experiment.model_validate(values)


def all_parts(part=Part):
    for below in part.__subclasses__():
        if below.__module__ in PARTS:
            yield below
            yield from all_parts(below)


def test_a_small_experiment_has_the_defaults():
    e = experiment()
    assert (e.seed, e.storage, e.cluster.workers, e.cluster.device, e.evaluate.batch) == (0, "runs", 1, "auto", 256)
    assert (e.train.optimizer.type, e.train.optimizer.weight_decay, e.train.schedule.type) == ("sgd", 5e-4, "constant")
    assert (e.train.checkpoint.every_minutes, e.train.precision, e.train.ema) == (10, "auto", None)
    assert (e.data.validation, e.data.views, e.data.mode, e.teacher) == (0.1, 1, "auto", None)


@pytest.mark.parametrize("part", sorted(set(all_parts()), key=lambda p: p.__name__))
def test_every_part_is_frozen_documented_and_refuses_unknown_keys(part):
    assert part.__doc__
    assert part.model_config["frozen"]
    with pytest.raises(ValidationError, match="Extra inputs"):
        part.model_validate({"surely_unknown": 1})


def test_nothing_can_be_assigned():
    with pytest.raises(ValidationError, match="frozen"):
        experiment().train.epochs = 3


@pytest.mark.parametrize(
    ("part", "values", "bad"),
    [
        (Train, TRAIN, {"epochs": 0}),
        (Train, TRAIN, {"epochs": 2**63}),
        (Train, TRAIN, {"batch": 0}),
        (Train, TRAIN, {"accumulate": 0}),
        (Train, TRAIN, {"clip_norm": 0}),
        (Train, TRAIN, {"ema": 0}),
        (Train, TRAIN, {"ema": 1}),
        (Train, TRAIN, {"log_every": 0}),
        (Train, TRAIN, {"eval_every": -1}),
        (Train, TRAIN, {"divergence_factor": 1}),
        (Train, TRAIN, {"precision": "fp8"}),
        (Train, TRAIN, {"compile": 1}),
        (Train, TRAIN, {"compile": "true"}),
        (Train, TRAIN, {"epochs": True}),
        (Train, TRAIN, {"epochs": "3"}),
        (Train, TRAIN, {"epochs": 3.0}),
        (Train, TRAIN, {"epochs": None}),
        (Optimizer, OPTIMIZER, {"lr": 0}),
        (Optimizer, OPTIMIZER, {"lr": "0.1"}),
        (Optimizer, OPTIMIZER, {"lr": True}),
        (Optimizer, OPTIMIZER, {"lr": float("nan")}),
        (Optimizer, OPTIMIZER, {"lr": float("inf")}),
        (Optimizer, OPTIMIZER, {"momentum": 1}),
        (Optimizer, OPTIMIZER, {"momentum": -0.1}),
        (Optimizer, OPTIMIZER, {"weight_decay": -1e-9}),
        (Optimizer, OPTIMIZER, {"type": "SGD"}),
        (Optimizer, {**OPTIMIZER, "type": "adamw"}, {"betas": [0.9]}),
        (Optimizer, {**OPTIMIZER, "type": "adamw"}, {"betas": [0.9, 1]}),
        (Schedule, {}, {"gamma": 0}),
        (Schedule, {}, {"warmup_epochs": -1}),
        (Schedule, {}, {"min_lr": -1}),
        (LrRule, {"type": "linear"}, {"base_batch": 0}),
        (Checkpointing, {}, {"every_steps": 0}),
        (Checkpointing, {}, {"every_minutes": 0}),
        (Checkpointing, {}, {"keep": 0}),
        (Data, DATA, {"validation": 1}),
        (Data, DATA, {"validation": -0.1}),
        (Data, DATA, {"views": 0}),
        (Data, DATA, {"limit": 0}),
        (Data, DATA, {"classes": 0}),
        (Data, DATA, {"samples": 0}),
        (Data, DATA, {"shuffle_window_bytes": 0}),
        (Data, DATA, {"resident_limit_bytes": -1}),
        (Data, DATA, {"max_bad_fraction": 1.1}),
        (Data, DATA, {"source": "mnist"}),
        (Data, DATA, {"mode": "off"}),
        (Cluster, {}, {"workers": -1}),
        (Cluster, {}, {"gpus_per_worker": -1}),
        (Cluster, {}, {"cpus_per_worker": 0}),
        (Cluster, {}, {"max_failures": -1}),
        (Cluster, {}, {"device": "gpu"}),
        (ModelSpec, STUDENT, {"model": ""}),
        (ModelSpec, STUDENT, {"model": 56}),
        (ModelSpec, STUDENT, {"stages": []}),
        (Teacher, STUDENT, {"min_accuracy": 80}),
        (Student, STUDENT, {"alone": "yes"}),
        (Experiment, {"data": DATA, "teacher": {"model": "m", "weights": "w"}}, {"seed": -1}),
        (Experiment, {"data": DATA, "teacher": {"model": "m", "weights": "w"}}, {"name": "../up"}),
        (Experiment, {"data": DATA, "teacher": {"model": "m", "weights": "w"}}, {"name": ""}),
    ],
)
def test_bounds_and_types(part, values, bad):
    part.model_validate(values)
    with pytest.raises(ValidationError) as caught:
        part.model_validate({**values, **bad})
    assert caught.value.errors()[0]["loc"][0] == next(iter(bad))


def test_whole_numbers_are_fine_floats():
    optimizer = Optimizer(lr=1)
    assert type(optimizer.lr) is float


def test_a_null_is_none_or_the_default():
    e = experiment(
        cluster=None, evaluate=None, seed=None, train={**TRAIN, "schedule": None, "checkpoint": {"every_minutes": None}}
    )
    assert e.cluster == Cluster()
    assert e.seed == 0
    assert e.train.schedule == Schedule()
    assert e.train.checkpoint.every_minutes is None


def problem(call, *args, **values):
    with pytest.raises(ValidationError) as caught:
        call(*args, **values)
    (error,) = caught.value.errors()
    return ".".join(map(str, (*error["loc"], *error["ctx"]["at"]))), error["msg"]


def test_data_needs_an_origin():
    assert problem(Data)[1].startswith("names no training data")
    assert problem(Data, source="shards")[0] == "source"
    assert Data(train="s3://b/train").source is None
    assert Data(source="shards", train="x") == Data(train="x")


@pytest.mark.parametrize("key", ["train", "test"])
def test_data_has_one_origin(key):
    path, text = problem(Data.model_validate, {"source": "digits", key: "x"})
    assert path == key
    assert "x would do nothing" in text


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("part", [Data, ModelSpec])
def test_mean_and_std_come_together(part, key):
    path, text = problem(part.model_validate, {**(DATA if part is Data else STUDENT), key: [0.5, 0.5, 0.5]})
    assert path == key
    assert "without" in text


def test_mean_and_std_are_three_bounded_numbers():
    data = Data.model_validate({**DATA, "mean": [0, 0.5, 1], "std": [0.2, 0.2, 0.2]})
    assert data.mean == (0.0, 0.5, 1.0)
    assert Data(source="digits", mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)).std == (1, 1, 1)
    assert problem(Data.model_validate, {**DATA, "mean": [0.5, 0.5], "std": [1, 1, 1]})[1].startswith("wants 3 numbers")
    for bad in ([0.5, 0.5, 127.5], [0.5, 0.5, True], [0.5, 0.5, "1"]):
        with pytest.raises(ValidationError):
            Data.model_validate({**DATA, "mean": bad, "std": [1, 1, 1]})


def test_keys_of_another_type_are_refused_unless_they_stand_at_their_default():
    assert "momentum 0.8 belongs to type sgd" in problem(Optimizer, type="adamw", lr=1, momentum=0.8)[1]
    assert "belongs to type sgd" in problem(Optimizer, type="adamw", lr=1, nesterov=True)[1]
    assert "belongs to type adamw" in problem(Optimizer, lr=1, betas=(0.5, 0.9))[1]
    assert "belongs to type multistep" in problem(Schedule, type="cosine", gamma=0.5)[1]
    assert "belongs to type multistep" in problem(Schedule, milestones=[1])[1]
    assert "belongs to type linear or sqrt" in problem(LrRule, base_batch=64)[1]
    assert Optimizer(type="adamw", lr=1, momentum=0.9) == Optimizer(type="adamw", lr=1)


def test_nesterov_needs_momentum():
    assert problem(Optimizer, lr=1, momentum=0, nesterov=True)[0] == "nesterov"


def test_milestones():
    assert problem(Schedule, type="multistep")[1].startswith("multistep needs milestones")
    assert "3 comes before 2" in problem(Schedule, type="multistep", milestones=[1, 3, 2])[1]
    assert "2 comes before 2" in problem(Schedule, type="multistep", milestones=[2, 2])[1]
    multistep = {"type": "multistep", "milestones": [5, 9]}
    assert Train.model_validate({**TRAIN, "schedule": multistep}).schedule.milestones == [5, 9]
    path, text = problem(Train.model_validate, {**TRAIN, "epochs": 9, "schedule": multistep})
    assert path == "schedule.milestones"
    assert "milestone 9 is never reached in 9 epochs" in text


def test_warmup_ends_before_the_run():
    path, text = problem(Train.model_validate, {**TRAIN, "schedule": {"warmup_epochs": 10}})
    assert path == "schedule.warmup_epochs"
    assert "fills all 10 epochs" in text


def test_an_experiment_has_a_model():
    assert "neither a teacher nor a student" in problem(experiment, student=None)[1]


def test_a_student_needs_objectives():
    assert problem(experiment, objectives={})[0] == "objectives"
    assert problem(experiment, objectives=None)[0] == "objectives"


def test_what_trains_needs_train():
    teacher = {"model": "m"}
    assert problem(experiment, train=None)[0] == "train"
    assert problem(Experiment.model_validate, {"data": DATA, "teacher": teacher})[0] == "train"
    assert Experiment.model_validate({"data": DATA, "teacher": {**teacher, "weights": "w"}}).train.epochs == 1
    assert Experiment.model_validate({"data": DATA, "teacher": {**teacher, "train": TRAIN}}).teacher.train.epochs == 10
    assert problem(experiment, train=None, teacher={**teacher, "weights": "w"})[0] == "train"


@pytest.mark.parametrize(
    ("workers", "accumulate", "fits"), [(0, 1, True), (0, 3, False), (4, 2, True), (3, 1, False), (8, 2, False)]
)
def test_the_batch_divides(workers, accumulate, fits):
    changes = {"train": {**TRAIN, "accumulate": accumulate}, "cluster": {"workers": workers}}
    if fits:
        experiment(**changes)
    else:
        path, text = problem(experiment, **changes)
        assert path == "train.batch"
        assert f"multiple of {max(workers, 1) * accumulate}: " in text


def test_the_teachers_batch_divides_too():
    path, text = problem(experiment, teacher={"model": "m", "train": {**TRAIN, "batch": 9}}, cluster={"workers": 2})
    assert path == "teacher.train.batch"
    assert "8 or 10" in text
