"""`kdray shard SOURCE DEST`: pack images into shards; `kdray shard verify URI`: read a set again and judge it."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from kdray.cli import Parser
from kdray.data.layout import ColumnNames, Manifest, ShardColumns
from kdray.data.manifest_json import MANIFEST, WRITING
from kdray.data.pack.check import Problem
from kdray.data.pack.collection import Collection, open_collections
from kdray.data.pack.listing import entries, kind_at
from kdray.data.pack.options import MIB, PackOptions
from kdray.data.pack.progress import showing, size_text
from kdray.data.pack.verify import Verdict, verify
from kdray.errors import ConfigError, DataError, Interrupted, nearest
from kdray.report.progress import terminable
from kdray.store import Store

SHOWN = 20  # bad images or rows that are printed
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_TRAINS = ("train", "training")
_TESTS = ("test", "testing", "val", "valid", "validation", "dev", "eval")  # what is tested on, the first that there is


def main(argv: Sequence[str], console: Console) -> int:
    """Run `kdray shard` with these arguments; returns the exit code, raises `KdrayError`."""
    with terminable():
        if argv and argv[0] == "verify":
            return verify_command(_parse(_verify_parser(), argv[1:]), console)
        options = _parse(_parser(), argv)
        try:
            return pack_command(options, console)
        except KeyboardInterrupt:
            fix = "The same command goes on with what is missing"
            raise Interrupted("stopped; finished shards are kept", fix=fix) from None


def pack_command(arguments: argparse.Namespace, console: Console) -> int:
    """List the source, pack every split of it, and say what came out."""
    from kdray.data.pack.execute import pack

    options = _options(arguments)
    packed: dict[str, Manifest] = {}
    with open_collections(arguments.source, kind=arguments.kind, split=arguments.split) as collections:
        for collection in collections:
            for note in collection.notes:
                _say(console, f"{collection.split}: {note}")
        if arguments.dry_run:
            print_plan(collections, arguments.dest, options, console, fresh=arguments.fresh)
            return 0
        with showing(console) as view:
            for collection in collections:
                dest = destination(arguments.dest, collection)
                packed[collection.split] = pack(
                    collection, dest, options, workers=arguments.workers, progress=view, fresh=arguments.fresh
                )
    print_summary(packed, console)
    return 0


def verify_command(arguments: argparse.Namespace, console: Console) -> int:
    """Check a set; 0 when all is well, 1 with every bad row named."""
    columns: ColumnNames = ShardColumns(arguments.image, arguments.label, arguments.id)
    workers = arguments.workers
    if workers is None and "RAY_ADDRESS" not in os.environ:
        workers = 0  # reading again is not worth the start of a cluster
    code, sets = 0, sets_at(arguments.uri)
    for uri, lacks in sets.items():
        try:
            with showing(console) as view:
                verdict = verify(uri, columns, workers=workers, progress=view)
        except DataError as error:
            if len(sets) == 1:
                raise
            _say(console, str(error))  # an unfinished split says nothing about the others
            code = 1
            continue
        if lacks and all(problem.file != MANIFEST for problem in verdict.problems):
            verdict.problems.insert(0, Problem(MANIFEST, "is missing, and the sets beside this one have theirs"))
        print_verdict(verdict, console, most=None if arguments.all else SHOWN)
        code = code if verdict.good else 1
    return code


def print_verdict(verdict: Verdict, console: Console, most: int | None) -> None:
    """What is wrong, `most` problems of it (None: all that are told apart), and in one line what was read."""
    shown = verdict.problems[:most]
    for problem in shown:
        _say(console, f"  {problem}")
    if verdict.found > len(shown):
        fix = "" if most is None else " (--all prints those that are told apart)"
        _say(console, f"  ... and {verdict.found - len(shown)} more{fix}")
    images, classes = counted(verdict.rows, "image"), counted(len(verdict.class_counts), "class", "classes")
    what = f"{images} of {classes} in {counted(verdict.shards, 'shard')}, {size_text(verdict.bytes)}"
    if verdict.good:
        against = "as the manifest says, and all decode" if verdict.own else "all decode (there is no manifest)"
        _say(console, f"{verdict.uri}: well: {what}, {against}")
    else:
        _say(console, f"{verdict.uri}: {counted(verdict.found, 'problem')} in {what}")


def counted(number: int, one: str, many: str | None = None) -> str:
    """ "1 shard", "2 shards"."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def sets_at(uri: str) -> dict[str, bool]:
    """The sets that a URI means, itself or the folders of a source's splits in it, and whether each lacks a manifest
    that others there have.
    """
    if set("*?[") & set(uri.rpartition("/")[2]) or kind_at(uri) != "folder":
        return {uri: False}
    inside = entries(uri)
    if any(name.endswith(".parquet") or name in (MANIFEST, WRITING) for name in inside):
        return {uri: False}
    folders = [Store(uri).path_uri(name) for name, entry in inside.items() if entry.folder]
    held = {folder: Store(folder).list() for folder in folders}
    marked = {folder for folder, names in held.items() if {MANIFEST, WRITING} & set(names)}
    bare = {folder for folder, names in held.items() if any(name.endswith(".parquet") for name in names)} - marked
    return {folder: bool(marked) and folder in bare for folder in folders if folder in marked | bare} or {uri: False}


def destination(dest: str, collection: Collection) -> str:
    """Where a split is packed: a folder of its own where the source has splits."""
    return Store(dest).path_uri(collection.split) if collection.has_splits else Store(dest).uri


def print_plan(
    collections: Sequence[Collection], dest: str, options: PackOptions, console: Console, fresh: bool = False
) -> None:
    """What a packing would do."""
    from kdray.data.pack.execute import plan_packing

    table = Table(title=f"{collections[0].kind}: {collections[0].uri}", title_justify="left")
    for name in ("split", "images", "classes", "size", "shards", "packed size", "to", "there"):
        table.add_column(name, justify="right" if name in ("images", "classes", "size", "shards") else "left")
    for collection in collections:
        to = destination(dest, collection)
        plan, there = plan_packing(collection, to, options, fresh)
        items = collection.items.num_rows
        size = int(collection.items.column("bytes").to_numpy().sum())
        after = "" if plan is None else f"{'about ' if plan.ratio != 1 else ''}{size_text(size * plan.ratio)}"
        shards = "" if plan is None else str(plan.shards)
        table.add_row(
            collection.split, str(items), str(collection.num_classes), size_text(size), shards, after, to, there
        )
    console.print(table)


def print_summary(packed: dict[str, Manifest], console: Console) -> None:
    """What came out, and the lines that an experiment needs."""
    table = Table()
    names = ("split", "images", "classes", "shards", "size", "an image", "shorter side 1 % / 50 % / 99 %", "re-encoded")
    for name in (*names, "bad"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, manifest in packed.items():
        sides = dict(manifest.sizes.short_side) if manifest.sizes else {}
        table.add_row(
            split,
            str(manifest.num_samples),
            str(manifest.num_classes),
            str(len(manifest.shards)),
            size_text(manifest.image_bytes),
            size_text(manifest.image_bytes / max(1, manifest.num_samples)),
            " / ".join(str(sides[part]) for part in (0.01, 0.5, 0.99) if part in sides),
            str(manifest.packing.reencoded if manifest.packing else 0),
            str(len(manifest.bad)),
        )
    console.print(table)
    for split, manifest in packed.items():
        for bad in manifest.bad[:SHOWN]:
            _say(console, f"left out of {split}: {bad.path}: {bad.reason}")
        if len(manifest.bad) > SHOWN:
            _say(console, f"... {len(manifest.bad) - SHOWN} more stand in {manifest.uri}/manifest.json")
        if manifest.mean is not None and manifest.std is not None:
            values = (", ".join(f"{value:.4f}" for value in triple) for triple in (manifest.mean, manifest.std))
            _say(console, "{}: mean [{}], std [{}]".format(split, *values))
    _say(console, "")
    for line in data_lines({split: manifest.uri for split, manifest in packed.items()}):
        _say(console, line)


def data_lines(uris: dict[str, str]) -> list[str]:
    """The `data:` section of an experiment on these splits."""
    rest = dict(uris)
    lines = ["data:"]
    by_word = {split.lower(): split for split in rest}
    test = next((by_word[word] for word in _TESTS if word in by_word), None)
    other = next((split for split in rest if split != test), None)
    train = next((by_word[word] for word in _TRAINS if word in by_word), other)
    for key, split in (("train", train), ("test", test)):
        if split is not None:
            lines.append(f"  {key}: {rest.pop(split)}")
    return lines + [f"  # {split}: {uri}" for split, uri in rest.items()]


def _parse(cli: Parser, argv: Sequence[str]) -> argparse.Namespace:
    arguments, unknown = cli.parse_known_args(argv)
    if unknown:
        flags = [flag for action in cli._actions for flag in action.option_strings]
        hint = nearest(unknown[0].partition("=")[0], flags)
        fix = f"{cli.prog} --help lists what there is"
        raise ConfigError(f"{unknown[0]!r} is not known{hint}", where="command line", fix=fix)
    return arguments


def _options(arguments: argparse.Namespace) -> PackOptions:
    for name in ("quality", "small"):
        if getattr(arguments, name) is not None and arguments.short_side is None:
            raise ConfigError("does nothing without --short-side", where=f"--{name}", fix="Add --short-side 256")
    given = {
        name: getattr(arguments, name)
        for name in ("short_side", "quality", "small", "shard_bytes", "row_group_rows", "order", "max_bad")
        if getattr(arguments, name) is not None
    }
    return PackOptions(**given, mean_std=arguments.mean_std)


def _parser() -> Parser:
    defaults = PackOptions()
    cli = Parser(
        prog="kdray shard",
        description="Pack a collection of images into Parquet shards. The same command again goes on where it stopped. "
        "`kdray shard verify URI` checks a set.",
    )
    cli.add_argument("source", help="an image folder, an archive, tar shards, Parquet: a path, s3:// or gs:// URI")
    cli.add_argument("dest", help="folder of the shards; a source with splits gets a folder in it for each")
    cli.add_argument("--split", help="only this split of the source")
    cli.add_argument("--kind", help="what the source is, where that is not told by what lies there")
    cli.add_argument("--short-side", type=int, metavar="PIXELS", help="make larger images smaller, as JPEG")
    cli.add_argument("--quality", type=int, help=f"of those JPEGs (default {defaults.quality})")
    cli.add_argument(
        "--small",
        metavar="keep|jpeg",
        help="with --short-side, images that are small: keep their bytes (default), or make JPEGs of all",
    )
    cli.add_argument(
        "--shard-bytes", type=_bytes, metavar="SIZE", help=f"such as 256MiB (default {defaults.shard_bytes // MIB}MiB)"
    )
    cli.add_argument("--row-group-rows", type=int, metavar="IMAGES", help=f"default {defaults.row_group_rows}")
    cli.add_argument(
        "--order", metavar="mixed|source", help="of the rows: by a hash of the path (default), or as the source lists"
    )
    cli.add_argument(
        "--max-bad",
        type=_limit,
        metavar="LIMIT",
        help="images that may be left out: 0.001 of all (default), or a number",
    )
    cli.add_argument("--mean-std", action="store_true", help="measure mean and std of the channels over all pixels")
    _workers(cli, "tasks at a time on the Ray cluster (default: its CPUs); 0: threads of this process, no Ray")
    cli.add_argument("--fresh", action="store_true", help="delete what a packing left at DEST and start over")
    cli.add_argument("--dry-run", action="store_true", help="list the source and print the plan; write nothing")
    return cli


def _verify_parser() -> Parser:
    cli = Parser(prog="kdray shard verify", description="Read every byte of a set of shards again; 1 if any is wrong.")
    cli.add_argument("uri", help="a folder of shards, one file, or a glob of them")
    columns = ShardColumns()
    cli.add_argument("--image", default=columns.image, help="column of a set without a manifest (default image)")
    cli.add_argument("--label", default=columns.label, help="the same (default label)")
    cli.add_argument("--id", help="the same (default none)")
    cli.add_argument("--all", action="store_true", help=f"print all problems, not the first {SHOWN}")
    _workers(cli, "Ray tasks at a time; 0: threads of this process (default, unless RAY_ADDRESS is set)")
    return cli


def _workers(cli: Parser, text: str) -> None:
    cli.add_argument("--workers", type=_count, metavar="N", help=text)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers")
    return int(text)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?)b?", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 256MiB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2]])


def _limit(text: str) -> int | float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no limit; write a fraction such as 0.001, or a number") from None


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
