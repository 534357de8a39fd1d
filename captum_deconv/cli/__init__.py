"""The command line: it reads what was typed, has it done, and prints what came of it.

It holds no logic of its own. Each command has a file (``check`` a folder); how errors, warnings and
progress look is ``console``'s part; ``options`` holds what commands share, ``feature_maps`` what
``scan``, ``gallery`` and ``features`` do. torch is imported when the work begins, and what can be
checked is checked before: so a wrong argument is answered at once.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from captum_deconv.cli import (
    atlas,
    attribute,
    collect,
    compare_methods,
    correspond,
    coverage,
    demo,
    diagnose,
    features,
    gallery,
    invariance,
    occlude,
    scan,
)
from captum_deconv.cli.check import command as check_command
from captum_deconv.cli.console import PROGRAM, OneLineErrors

app = typer.Typer(
    name=PROGRAM,
    cls=OneLineErrors,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command(no_args_is_help=True)(attribute.attribute)
app.command()(coverage.coverage)
app.command(context_settings={"allow_extra_args": True})(check_command.check)
app.command(no_args_is_help=True)(scan.scan)
app.command(no_args_is_help=True)(gallery.gallery)
app.command(no_args_is_help=True)(features.features)
app.command(no_args_is_help=True)(atlas.atlas)
app.command(no_args_is_help=True)(collect.collect)
app.command(no_args_is_help=True)(compare_methods.compare_methods)
app.command(no_args_is_help=True)(occlude.occlude)
app.command(no_args_is_help=True)(invariance.invariance)
app.command(no_args_is_help=True)(correspond.correspond)
app.command(no_args_is_help=True)(diagnose.diagnose)
app.command()(demo.demo)


def main() -> None:
    """Run the command line."""
    app(prog_name=PROGRAM)


def _show_version(wanted: bool) -> None:
    if wanted:
        packages = ("torch", "captum")
        beside = ", ".join(f"{package} {version(package)}" for package in packages)
        typer.echo(f"{PROGRAM} {version('captum-deconv')} ({beside})")
        raise typer.Exit


@app.callback()
def _start(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error, too.")
    ] = False,
) -> None:
    """Which input pattern caused this activation?

    Three answers that differ in how they go back through a ReLU: the input gradient, the deconvnet
    and guided backprop, exact on every network however its rectifiers are written.

    [bold]Examples[/bold]

      captum-deconv demo --out demo
      captum-deconv attribute cat.jpg --model resnet50 --out cat.png
      captum-deconv coverage --model mobilenet_v2
      captum-deconv check --conv in=3,out=8,kernel=3,stride=2
      captum-deconv collect photographs --model resnet50 --out attributions
      captum-deconv compare-methods --model resnet50 --data photographs --out report
      captum-deconv features --layer relu2 --data photographs --out relu2
      captum-deconv atlas --model resnet50 --data photographs --out site
      captum-deconv occlude cat.jpg --layer relu4 --out occluded.png
    """
