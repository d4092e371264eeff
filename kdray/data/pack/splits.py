"""Which folders of a tree of images are splits and which are classes: one rule for folders and for tars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from kdray.data.pack.listing import told
from kdray.errors import DataError

SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")


def is_split(name: str) -> bool:
    """Whether a folder's name is that of a split, in any case: "Train" is one, and stays "Train"."""
    return name.lower() in SPLITS


def split_order(name: str) -> tuple[int, str]:
    """Sorts names of splits: "train" first, other words last."""
    return SPLITS.index(name.lower()) if is_split(name) else len(SPLITS), name


class Tree(Protocol):
    """A tree of images; folders in it are told by their path, "" is the top."""

    def folders(self, at: str) -> Sequence[str]:
        """Names of the folders in `at`, sorted."""

    def loose(self, at: str) -> tuple[int, str]:
        """(number of images in `at` itself, the name of one)."""

    def holds(self, at: str) -> bool:
        """Whether there is an image in `at`, at any depth."""


@dataclass(frozen=True)
class Asked:
    """What of the tree at `where` is asked for: one `split`, or a `kind` that was `forced` by the user."""

    where: str
    kind: str
    split: str | None
    forced: bool

    def refuse(self, problem: str, fix: str) -> DataError:
        return DataError(problem, where=self.where, fix=f"{fix}; --kind {self.kind} takes every folder for a class")


@dataclass(frozen=True)
class Part:
    """A split: its class folders stand in `folder`, where there are `loose` images that have no class."""

    split: str
    folder: str
    classes: tuple[str, ...]
    loose: int
    example: str

    def notes(self, classed: int, asked: Asked) -> list[str]:
        """What to say of the images without a class, beside `classed` that have one.

        Raises:
            DataError: they are the most, so the folders are no classes.
        """
        if self.loose > classed and not asked.forced:
            problem = f"{self.loose} of {self.loose + classed} images of {self.split} are in no class folder"
            raise asked.refuse(f"{problem}, such as {self.example}", "Put each class's images into a folder of its own")
        if not self.loose:
            return []
        return [f"{self.loose} images beside the class folders were left out, such as {self.example}"]


@dataclass(frozen=True)
class Layout:
    """The splits of a tree; without any, one called "train". `top` is the folder that all stands in, "" mostly."""

    parts: tuple[Part, ...]
    has_splits: bool
    top: str
    notes: tuple[str, ...]


def lay_out(tree: Tree, asked: Asked, given: Sequence[str] = ()) -> Layout:
    """Tell the splits and classes of `tree`; `given` names the folders at the top that are splits whatever is in them.

    A folder named as a split is one when class folders with images are in it. A folder that all images stand in is
    passed over, as `tar cf flowers.tar flowers/` makes one.

    Raises:
        DataError: a folder may be a split as well as a class, or the classes would be called as splits are.
    """
    notes: list[str] = []
    top = ""
    splits = _with_classes(tree, top, given or _words(tree, top))
    while not splits and not given and (inner := _sole(tree, top)) is not None:
        notes += _beside(tree, top, f"{inner.rpartition('/')[2]}/")
        top = inner
        splits = _with_classes(tree, top, _words(tree, top))
    if len(splits) == 1 and not given and asked.split is None:
        beside = list(islice((name for name in _holding(tree, top) if not is_split(name)), 4))
        if beside and not asked.forced:
            problem = f"{splits[0]}/ may be a split, or a class like {told(beside, 3)} beside it"
            raise asked.refuse(problem, f"--split {splits[0]} takes it for a split")
        splits = [] if beside else splits
    if not splits and given:
        return Layout((), True, top, ())
    if splits:
        notes += _left_out(tree, top, splits)
        folders = _unwrapped(tree, [_join(top, name) for name in splits])
        for name, folder in zip(splits, folders, strict=True):
            notes += [] if folder == _join(top, name) else [f"the classes of {name} are those in {folder}/"]
    else:
        folders = [top]
    parts = [
        Part(split, folder, tuple(tree.folders(folder)), *tree.loose(folder))
        for split, folder in zip(splits or ["train"], folders, strict=True)
    ]
    notes += _called_as_splits(tree, parts, asked)
    return Layout(tuple(parts), bool(splits), top, tuple(notes))


def _words(tree: Tree, at: str) -> list[str]:
    return [name for name in tree.folders(at) if is_split(name)]


def _with_classes(tree: Tree, at: str, names: Sequence[str]) -> list[str]:
    """Those of the folders `names` with class folders in them."""
    return sorted((name for name in names if any(_holding(tree, _join(at, name)))), key=split_order)


def _holding(tree: Tree, at: str) -> Iterator[str]:
    """Folders in `at` with images in them, looked into one by one."""
    return (name for name in tree.folders(at) if tree.holds(_join(at, name)))


def _sole(tree: Tree, at: str) -> str | None:
    """The only folder in `at` with images, when there are such folders in it again."""
    found = list(islice(_holding(tree, at), 2))
    inner = _join(at, found[0]) if len(found) == 1 else ""
    return inner if inner and any(_holding(tree, inner)) else None


def _unwrapped(tree: Tree, folders: list[str]) -> list[str]:
    """The folders of splits, without one more folder in each that all stands in: train/train/, val/images/.

    Where other splits have several classes, such a folder holds some of these and is none of them: a split may have
    one class only.
    """
    while True:
        pairs = [(folder, _sole(tree, folder)) for folder in folders]
        classes = {name for folder, inner in pairs if not inner for name in tree.folders(folder)}
        deeper = [
            inner
            if inner
            and (not classes or (inner.rpartition("/")[2] not in classes and classes.intersection(tree.folders(inner))))
            else folder
            for folder, inner in pairs
        ]
        if deeper == folders:
            return folders
        folders = deeper


def _left_out(tree: Tree, top: str, splits: list[str]) -> list[str]:
    """Notes on what stands beside the splits."""
    rest = [name for name in tree.folders(top) if name not in splits]
    flat = sorted((name for name in rest if is_split(name) and tree.loose(_join(top, name))[0]), key=split_order)
    notes = [f"{name}/ has images without class folders and was left out" for name in flat]
    if others := [name for name in rest if name not in flat]:
        notes.append(f"what stands beside the splits was left out: {told(others)}")
    return notes + _beside(tree, top, "the splits")


def _beside(tree: Tree, at: str, what: str) -> list[str]:
    count, example = tree.loose(at)
    return [f"{count} images beside {what} were left out, such as {example}"] if count else []


def _called_as_splits(tree: Tree, parts: list[Part], asked: Asked) -> list[str]:
    """A note on the class that is called as a split; raises `DataError` where several are, or there is no other."""
    words: set[str] = set()
    others = False
    for part in parts:
        words.update(n for n in part.classes if is_split(n) and tree.holds(_join(part.folder, n)))
        others = others or any(not is_split(n) and tree.holds(_join(part.folder, n)) for n in part.classes)
    if not words:
        return []
    named = told([f"{name}/" for name in sorted(words, key=split_order)])
    if not asked.forced and (len(words) > 1 or not others):
        problem = f"its classes would be {named}, which are called as splits are" if not others else ""
        problem = problem or f"{named} would be classes, and are called as splits are"
        raise asked.refuse(problem, "Put each class's images into a folder of its own in them")
    return [f"taken for a class, not for a split: {named}"]


def _join(at: str, name: str) -> str:
    return f"{at}/{name}" if at else name
