"""`kdray data show`: print what a set of shards holds, and write a contact sheet of it.

kdray data show data/flowers/train --augment '[{random_resized_crop: {size: 224}}, flip]'
kdray data show experiments/quickstart.yaml
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence

from PIL import Image
from rich.console import Console

from kdray.cli import Parser
from kdray.errors import ConfigError, StoreError
from kdray.report.data_experiment import SPLITS
from kdray.report.data_open import open_subject
from kdray.report.data_subject import Wish
from kdray.store import Store

ROWS, MOST_ROWS = 8, 64


def parser() -> Parser:
    """The command line."""
    cli = Parser(prog="kdray data", description="Look at data before spending days of training on it.")
    commands = cli.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    show = commands.add_parser(
        "show",
        help="print what a set holds and write a contact sheet of it",
        description="Print what a set of shards holds, and write a picture of samples: stored, evaluated, trained on.",
    )
    add = show.add_argument
    add("target", metavar="URI_OR_EXPERIMENT", help="folder, file or glob of shards, or an experiment's YAML file")
    add("--out", metavar="FILE.png", help="where the contact sheet goes (default: NAME-data.png here)")
    add("--augment", metavar="LIST", help="transforms as in data.augment: '[{random_resized_crop: {size: 224}}, flip]'")
    add("--views", type=_whole(1), metavar="N", help="augmented views of an image, as data.views")
    add("--epoch", type=_whole(0), default=0, metavar="E", help="the first epoch that is shown (default 0)")
    add("--seed", type=_whole(0), metavar="S", help="seed of the augmentation (default: the experiment's, or 0)")
    add("--rows", type=_whole(1, MOST_ROWS), default=ROWS, metavar="R", help=f"samples on the sheet (default {ROWS})")
    add("--split", metavar="NAME", help=f"{', '.join(SPLITS)}; of a folder of shards, the sub-folder or name of files")
    add("--variant", type=lambda text: text.split(","), metavar="NAME[,NAME]", help="variants of the experiment")
    add(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="sets",
        help="change a key, as in an experiment",
    )
    return cli


def main(argv: Sequence[str], console: Console) -> int:
    """Run `kdray data ARGV`; returns its exit code.

    Raises:
        InputError: options, files or data that are wrong.
    """
    options = parser().parse_args(list(argv))
    out = options.out
    if out is not None and not out.lower().endswith(".png"):
        raise ConfigError(f"{out!r} is no PNG file", where="--out", fix="Give a name that ends in .png")
    wish = Wish(
        sets=options.sets,
        split=options.split,
        variants=options.variant,
        augment=options.augment,
        views=options.views,
        seed=options.seed,
    )
    subject = open_subject(options.target, wish)

    from kdray.report.contact_sheet import draw
    from kdray.report.data_cells import make_sheet
    from kdray.report.data_facts import fact_lines, facts, warnings
    from kdray.report.data_sample import look, names_of, spread_rows

    shown = spread_rows(subject.part.rows, subject.trained, subject.ids, options.rows)
    rows, found = look(subject.manifest, subject.part.rows, shown)
    sheet = make_sheet(subject, rows, names_of(subject.manifest, shown), options.epoch)
    for line in fact_lines(facts(subject, found)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for text in [*warnings(subject, found), *sheet.warnings]:
        console.print(f"warning: {text}", highlight=False, markup=False, soft_wrap=True)
    page = draw(sheet).image
    out = out or f"{subject.file_name}-data.png"
    written = write_png(page, out)
    console.print(
        f"contact sheet: {written} ({page.width} x {page.height})", highlight=False, markup=False, soft_wrap=True
    )
    return 0


def write_png(page: Image.Image, out: str) -> str:
    """Write `page` to `out`, a path or URI, whole or not at all; returns the place as `Store` names it."""
    data = io.BytesIO()
    page.save(data, "PNG")
    folder, _, name = out.rpartition("/")
    store = Store(folder or ("/" if out.startswith("/") else "."))
    try:
        store.write_bytes(name, data.getvalue())
    except StoreError as error:
        raise StoreError(error.problem, where=f"--out {error.where or out}", fix=error.fix) from error
    return store.path_uri(name)


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        between = f"from {low} to {high}" if high is not None else f"of at least {low}"
        if not text.isascii() or not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number {between}")
        return int(text)

    return read
