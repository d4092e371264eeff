"""The command: read an experiment, plan it, run it, print what came out.

python -m kdray.run experiments/quickstart.yaml
python -m kdray.run experiments/cifar100_clmkd.yaml --set train.epochs=10 --dry-run
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from kdray.cli import Parser, guarded
from kdray.errors import ConfigError, KdrayError
from kdray.experiment import Comparison, load_comparison, to_yaml


def parser() -> Parser:
    """The command line."""
    cli = Parser(
        prog="kdray",
        description="Run a distillation experiment. The same command again goes on where it stopped.",
        epilog="kdray shard SOURCE DEST packs images, kdray data show URI looks at them; each has a --help of its own.",
    )
    cli.add_argument("experiment", nargs="?", help="the experiment's YAML file")
    cli.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", dest="sets", help="change a key, e.g. seed=1"
    )
    cli.add_argument(
        "--variant",
        type=lambda text: text.split(","),
        metavar="NAME[,NAME]",
        help="run these variants of the file only",
    )
    cli.add_argument("--dry-run", action="store_true", help="check everything and print the plan; leave nothing behind")
    cli.add_argument("--print-config", action="store_true", help="print the experiment with all defaults")
    cli.add_argument("--smoke", action="store_true", help="shrink everything to a laptop and a minute")
    cli.add_argument("--fresh", action="store_true", help="start over; what was saved before stays where it is")
    cli.add_argument("--run-id", metavar="ID", help="name of the record's folder (default: NAME-DIGEST)")
    cli.add_argument("--list", choices=("models", "methods", "sources"), help="print what can be named in a file")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 2 bad input, 1 failed, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda console: command(parser().parse_args(arguments), arguments, console))


def command(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    """Do what the parsed `options` say."""
    if options.list:
        from kdray.report.listing import print_listing

        print_listing(options.list, console)
        return 0
    if not options.experiment:
        raise ConfigError("no experiment is named", fix="Give a YAML file, e.g. experiments/quickstart.yaml")
    if options.run_id is not None and not options.run_id.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigError(f"{options.run_id!r} is no folder name", where="--run-id", fix="Use letters, digits, . _ -")
    experiment = load_comparison(options.experiment, options.sets, options.variant)
    if options.print_config and not options.smoke:
        print(to_yaml(experiment), end="")
        return 0
    sys.path.insert(0, os.getcwd())  # a user's own `package.module:callable` stands where the command runs
    try:
        return run(experiment, options, arguments, console)
    except KdrayError as error:
        from kdray.pipeline.naming import in_file

        raise in_file(error, options.experiment, options.sets) from error


def run(experiment: Comparison, options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    """Plan and, unless it is a dry run, run `experiment`."""
    from kdray.train.cluster import connect_in_background

    # Before anything that imports torch: Ray starts meanwhile.
    connected = None if options.dry_run or options.smoke else connect_in_background(experiment.cluster)
    from kdray.pipeline.execute import check_cells, needs_cluster, run_plan
    from kdray.pipeline.packing import pack_missing
    from kdray.pipeline.plan import make_plan
    from kdray.pipeline.shelf import RUNS
    from kdray.pipeline.smoke import smoke_all
    from kdray.report.matrix_table import write_tables
    from kdray.report.plan_text import print_plan
    from kdray.report.progress import ProgressView, terminable
    from kdray.report.summary import print_summary
    from kdray.store import Store

    stand_ins = None
    if options.smoke:
        experiment, notes, stand_ins = smoke_all(experiment)
        if options.print_config:
            print(to_yaml(experiment), end="")
            return 0
        for note in notes:
            console.print(f"smoke: {note}", highlight=False, markup=False, soft_wrap=True)
    settings = {"fresh": options.fresh, "run_id": options.run_id, "stand_ins": stand_ins}
    with terminable():
        if options.dry_run:
            print_plan(make_plan(experiment, dry=True, **settings), console)
            return 0
        connected = connected or connect_in_background(experiment.cluster)
        if not options.smoke:  # which trains on stand-ins
            pack_missing(experiment, connected, console)
        plan = make_plan(experiment, **settings)
        print_plan(plan, console)
        with ProgressView(console) as view:
            if needs_cluster(plan):
                connected()
            record = run_plan(
                plan,
                view,
                command=["kdray", *arguments],
                on_stage=lambda s: view.stage(f"{s.title}: {'reused' if s.done else s.spec.net.spec.model}"),
                view=view.trials,
            )
    print_summary(record, console)
    if record.get("matrix"):
        for uri in write_tables(Store(plan.comparison.storage), f"{RUNS}/{plan.run_id}", record):
            console.print(f"table: {uri}", highlight=False, markup=False, soft_wrap=True)
    check_cells(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
