"""`mergeopt zoo DIR`"""

from pathlib import Path

import typer

from mergeopt.cli.common import command


@command
def zoo(
    folder: Path = typer.Argument(help="Where the family goes: base, specialists, multitask."),
    seed: int = typer.Option(0, "--seed", help="Another seed is another family."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but errors."),
) -> None:
    """Train the small demo family: a base, four specialists, a multi-task upper bound (about two minutes)."""
    from dataclasses import replace

    from mergeopt.cli.display import step_bars
    from mergeopt.zoo.family import make_family
    from mergeopt.zoo.spec import DEMO

    with step_bars("training", quiet=quiet) as progress:
        make_family(replace(DEMO, seed=seed), folder, progress=progress)
