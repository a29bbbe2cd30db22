"""The command line: one file per command, each parses, calls one function, prints.

Nothing heavy is imported before a command runs, so `--help` answers at once.
"""

import typer

from mergeopt.cli import diagnose, evaluate, explain, merge, report, reproduce, search, submit, validate, zoo

app = typer.Typer(
    name="mergeopt",
    help="Learn how to merge language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("merge")(merge.merge)
app.command("search")(search.search)
app.command("eval")(evaluate.evaluate)
app.command("validate")(validate.validate)
app.command("explain")(explain.explain)
app.command("diagnose")(diagnose.diagnose)
app.command("reproduce")(reproduce.reproduce)
app.command("report")(report.report)
app.command("submit")(submit.submit)
app.command("zoo")(zoo.zoo)


def _version(value: bool) -> None:
    if value:
        from mergeopt import __version__

        typer.echo(f"mergeopt {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Learn how to merge language models."""


def main() -> None:
    """The `mergeopt` command."""
    app()
