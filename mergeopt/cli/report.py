"""`mergeopt report DIR`"""

from pathlib import Path

import typer

from mergeopt.cli.common import command, say


@command
def report(
    folder: Path = typer.Argument(metavar="DIR", help="What `mergeopt search` wrote, or is writing."),
    storage: str = typer.Option("", "--storage", help="Optuna storage URL of the study, where it has one."),
) -> None:
    """Write DIR/search/report.html: what the search found, how, and by what evidence. Also of an unfinished study."""
    from mergeopt.report.html.page import write_report

    say(f"wrote {write_report(folder, storage=storage or None)}")
