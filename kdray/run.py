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

from kdray.errors import ConfigError, KdrayError
from kdray.experiment import Experiment, load_experiment, to_yaml

INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="kdray", description="Run a distillation experiment. The same command again goes on where it stopped."
    )
    cli.add_argument("experiment", nargs="?", help="the experiment's YAML file")
    cli.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", dest="sets", help="change a key, e.g. seed=1"
    )
    cli.add_argument("--dry-run", action="store_true", help="check everything and print the plan; run nothing")
    cli.add_argument("--print-config", action="store_true", help="print the experiment with all defaults")
    cli.add_argument("--smoke", action="store_true", help="shrink everything to a laptop and a minute")
    cli.add_argument("--fresh", action="store_true", help="start over; what was saved before stays where it is")
    cli.add_argument("--run-id", metavar="ID", help="name of the record's folder (default: NAME-DIGEST)")
    cli.add_argument("--list", choices=("models", "methods", "sources"), help="print what can be named in a file")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 2 bad input, 1 failed, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 140)
    try:
        options = parser().parse_args(arguments)
        return command(options, arguments, console)
    except KdrayError as error:
        print(f"kdray: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("kdray: stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED


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
    experiment = load_experiment(options.experiment, options.sets)
    if options.smoke:
        from kdray.pipeline.smoke import smoke

        experiment, notes = smoke(experiment)
        for note in notes:
            console.print(f"smoke: {note}", markup=False, highlight=False, soft_wrap=True)
    if options.print_config:
        print(to_yaml(experiment), end="")
        return 0
    return run(experiment, options, arguments, console)


def run(experiment: Experiment, options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    """Plan and, unless it is a dry run, run `experiment`."""
    sys.path.insert(0, os.getcwd())  # a user's own `package.module:callable` stands where the command runs
    from kdray.pipeline.execute import connect_in_background, make_plan, run_plan
    from kdray.report.plan_text import print_plan
    from kdray.report.progress import ProgressView
    from kdray.report.summary import print_summary

    if options.dry_run:
        print_plan(make_plan(experiment, options.fresh, dry=True), console)
        return 0
    connected = connect_in_background(experiment)
    plan = make_plan(experiment, options.fresh)
    print_plan(plan, console)
    with ProgressView(console) as view:
        if any(not stage.done for stage, _ in plan.stages):
            connected()
        record = run_plan(
            plan,
            view,
            fresh=options.fresh,
            run_id=options.run_id,
            command=["kdray", *arguments],
            on_stage=lambda stage: view.stage(
                f"{stage.title}: {'reused' if stage.done else stage.spec.net.spec.model}"
            ),
        )
    print_summary(record, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
