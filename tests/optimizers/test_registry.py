"""Optimizers are found by name and loaded when asked for."""

import subprocess
import sys

import pytest

from mergeopt.errors import InputError
from mergeopt.optimizers import create
from mergeopt.optimizers.auto import choice


def test_optuna_is_not_loaded_for_an_optimizer_without_it() -> None:
    code = """
import sys
from mergeopt.optimizers import create
create("random", [()], seed=0, trials=1)
sys.exit(", ".join({"optuna", "cmaes", "torch"} & sys.modules.keys()) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("dimensions", "trials", "name"), [(4, 48, "gp"), (12, 48, "gp"), (12, 200, "cmaes"), (64, 48, "cmaes")]
)
def test_auto(dimensions: int, trials: int, name: str) -> None:
    assert choice(dimensions, trials) == name


def test_a_gradient_of_nothing() -> None:
    with pytest.raises(InputError, match="nothing to take a gradient of"):
        create("gradient", [()], seed=0, trials=1)
