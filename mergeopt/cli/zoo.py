"""`mergeopt zoo DIR`"""

from pathlib import Path

import typer

from mergeopt.cli.common import command


@command
def zoo(
    folder: Path = typer.Argument(help="Where the family goes: base, specialists, multitask."),
    family: str = typer.Option("demo", "--family", help="demo, eight (specialists), qwen or neox."),
    seed: int = typer.Option(0, "--seed", help="Another seed is another family."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print nothing but errors."),
) -> None:
    """Train a small family: a base, its specialists, a multi-task upper bound (the demo's takes about two minutes)."""
    from dataclasses import replace

    from mergeopt.cli.display import step_bars
    from mergeopt.errors import InputError, did_you_mean
    from mergeopt.zoo.families import FAMILIES
    from mergeopt.zoo.family import make_family

    if family not in FAMILIES:
        raise InputError(
            f"no family is called {family!r}", where="--family", remedy=did_you_mean(family, set(FAMILIES))
        )
    with step_bars("training", quiet=quiet) as progress:
        make_family(replace(FAMILIES[family], seed=seed), folder, progress=progress)
