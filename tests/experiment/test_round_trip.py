"""`to_yaml` prints what loads to an equal experiment, whatever the experiment holds."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdray.experiment import digest_of, experiment_from_dict, load_experiment, to_yaml

fractions = st.floats(1e-9, 0.999)
names = st.text(max_size=8) | st.sampled_from(
    ["010", "1e-3", "no", "12:30", "null", "~", "<<", "a.b", "# x", "- y", "\x85"]
)
free = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
experiments = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {"train": st.text(min_size=1, max_size=8)},
            optional={
                "validation": fractions,
                "views": st.integers(1, 4),
                "limit": st.none() | st.integers(1, 2**62),
                "augment": st.lists(
                    names.filter(bool)
                    | st.dictionaries(
                        names.filter(bool), st.dictionaries(names, free, max_size=2), min_size=1, max_size=1
                    ),
                    max_size=3,
                ),
            },
        ),
        "student": st.fixed_dictionaries(
            {"model": names.filter(bool)}, optional={"params": st.dictionaries(names, free, max_size=3)}
        ),
        "objectives": st.dictionaries(
            names.filter(bool), st.dictionaries(names, free, max_size=2), min_size=1, max_size=3
        ),
        "train": st.fixed_dictionaries(
            {
                "epochs": st.integers(5, 500),
                "batch": st.integers(1, 10**6),
                "optimizer": st.fixed_dictionaries({"lr": fractions}),
            },
            optional={
                "ema": st.none() | fractions,
                "schedule": st.fixed_dictionaries({"type": st.just("cosine"), "min_lr": fractions}),
            },
        ),
    },
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "teacher": st.fixed_dictionaries(
            {"model": names.filter(bool)},
            optional={
                "train": st.fixed_dictionaries({"epochs": st.integers(5, 9)}),
                "weights": st.text(min_size=1, max_size=5),
            },
        ),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(experiments)
def test_every_experiment_survives_the_round_trip(tmp_path, values):
    e = experiment_from_dict(values)
    file = tmp_path / "experiment.yaml"
    file.write_text(to_yaml(e), encoding="utf-8")
    again = load_experiment(file)
    assert again == e
    assert digest_of(again, results_only=False) == digest_of(e, results_only=False)
    assert experiment_from_dict(e.model_dump()) == e
