"""The experiments of a plan side by side: one stage for all that have the same one, each stage with its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from kdray.data.dataset import Dataset
from kdray.experiment import Comparison, Experiment, digest_of
from kdray.experiment.space_text import plain_space
from kdray.objectives.search_space import space_of
from kdray.pipeline.naming import in_variant
from kdray.pipeline.phases import student_needs
from kdray.pipeline.shelf import Shelf
from kdray.pipeline.stages import Draft, Stage, base_digests, draft_stages, place_stage


@dataclass(frozen=True)
class Member:
    """One experiment of a plan: the `variant` of that name (or the only one, ""), its data and its stages to be.

    `digests` tell the drafts apart; `names` are the names of their stages in the plan, by kind. Several members may
    share a stage.
    """

    variant: str
    experiment: Experiment
    dataset: Dataset
    drafts: list[Draft]
    digests: list[str]
    names: dict[str, str] = field(default_factory=dict)

    def stages(self) -> Iterator[tuple[Draft, str]]:
        """Drafts with their digests."""
        return zip(self.drafts, self.digests, strict=True)


def members_of(
    comparison: Comparison, open_data: Callable[[Experiment], Dataset], digest_weights: Callable[[str], str]
) -> list[Member]:
    """Draft the stages of every experiment.

    A variant whose student needs no teacher has none.

    Raises:
        InputError: as `draft_stages` and `open_data`; where it is about one variant, with that one's name.
    """
    members = []
    for variant, experiment in comparison.experiments.items():
        with in_variant(comparison, variant):
            dataset = open_data(experiment)
            if variant and experiment.student is not None and not student_needs(experiment).teacher:
                experiment = experiment.model_copy(update={"teacher": None})
            drafts = draft_stages(experiment, is_judged(experiment, dataset), digest_weights)
        members.append(Member(variant, experiment, dataset, drafts, base_digests(experiment, dataset, drafts)))
    return [replace(member, names=_names(member, members)) for member in members]


def is_judged(experiment: Experiment, dataset: Dataset) -> bool:
    """Whether there is anything to evaluate the teacher of `experiment` on."""
    known = experiment.teacher is None or experiment.teacher.classifier  # else its features are judged, on test
    return dataset.test is not None or (known and dataset.validation is not None)


def _names(member: Member, members: list[Member]) -> dict[str, str]:
    """Names of the stages of `member` by kind: the same in every member that shares them."""
    every = [(each.variant, draft.name, digest) for each in members for draft, digest in each.stages()]
    students = {digest for _, kind, digest in every if kind == "student"}
    names = {}
    for draft, digest in member.stages():
        # A student that only labels teach is one student, alone or not; it is not a teacher that is trained likewise,
        # for that starts from other weights.
        kinds = ("teacher",) if draft.name == "teacher" else ("student", "student_alone")
        kind, variant = next((k, v) for k in kinds for v, other, its in every if (other, its) == (k, digest))
        rivals = {its for _, other, its in every if other == kind} - (students if kind == "student_alone" else set())
        names[draft.name] = f"{kind}.{variant}" if variant and (kind == "student" or len(rivals) > 1) else kind
    return names


def run_digest(members: list[Member]) -> str:
    """Digest of a whole run: of its stages, whatever generation they are of. Names the run's folder."""
    return digest_of({member.names[draft.name]: digest for member in members for draft, digest in member.stages()})


def searched_digest(comparison: Comparison, digest: str) -> str:
    """`digest` of a run's stages, with what is searched where there is a search: another space is another run."""
    search = comparison.first.search
    if search is None:
        return digest
    space = plain_space(space_of(comparison.first))
    return digest_of({"stages": digest, "search": search.model_copy(update={"space": space})})


def place_stages(members: list[Member], shelf: Shelf, planned: Mapping[str, str], fresh: bool = False) -> list[Stage]:
    """Give every stage its folder in the store, once; `planned` are those that this run has used so far, by stage.

    They come in the order in which they run: what a variant needs before it, and the variants as the file has them.
    """
    stages: dict[str, Stage] = {}
    for member in members:
        taught: str | None = None
        for draft in member.drafts:
            name = member.names[draft.name]
            if name not in stages and name.partition(".")[0] == draft.name:
                stage = place_stage(member.experiment, member.dataset, draft, taught, shelf, planned.get(name), fresh)
                title = name if member.variant else stage.title
                stages[name] = replace(stage, name=name, title=title, variant=member.variant)
            if draft.name == "teacher":
                stages[name] = _strictest(stages[name], member)
                taught = stages[name].spec.folder
    return list(stages.values())


def _strictest(stage: Stage, member: Member) -> Stage:
    """`stage` with the floor of `member`'s teacher, where that is above its own."""
    teacher = member.experiment.teacher
    if teacher is None or teacher.min_accuracy is None or (stage.floor or 0.0) >= teacher.min_accuracy:
        return stage
    return replace(stage, floor=teacher.min_accuracy, floor_of=member.variant)
