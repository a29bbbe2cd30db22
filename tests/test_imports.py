"""What is imported when: the command line answers at once, and a line imports only lines below it."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "optuna", "datasets", "lm_eval", "numpy", "scipy", "rich.progress"}
FIRST = "import sys; before = set(sys.modules); {}; print('\\n'.join(set(sys.modules) - before))"


def imported_by(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has after `code`."""
    run = subprocess.run([sys.executable, "-c", FIRST.format(code)], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import mergeopt",
        "import mergeopt.errors, mergeopt.files",
        "import mergeopt.recipe.read, mergeopt.recipe.write",
        "from typer.testing import CliRunner; from mergeopt.cli.main import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    names = imported_by(code)
    assert any(name.startswith("mergeopt") for name in names)
    assert not {name for name in names if name in HEAVY or name.split(".")[0] in HEAVY}


def test_spaces_need_no_models() -> None:
    names = imported_by("import mergeopt.space.space, mergeopt.space.genome, mergeopt.space.free")
    assert not {name.split(".")[0] for name in names} & {"torch", "transformers", "optuna", "datasets", "lm_eval"}


def test_layers() -> None:
    pytest.importorskip("importlinter")
    run = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
