"""A merge that is interrupted or killed at any moment leaves no half file under a final name."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import read_weights
from tests.merge.conftest import merged

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
STOPPED = """
import os, signal, sys
from pathlib import Path
from mergeopt.cli.main import app
from mergeopt.merge import folder
word, moment = sys.argv[1:3]
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
def stop(*args, **kwargs):
    setattr(owner, moment, original)
    os.kill(os.getpid(), getattr(signal, word))
    return original(*args, **kwargs)
owner = folder.CheckpointWriter if moment in ("write", "commit") else folder
if moment == "replace":
    import pathlib
    owner = pathlib.Path
original = getattr(owner, moment)
setattr(owner, moment, stop)
app(["merge", "r.yml", "out"])
"""


def stopped(models: Path, word: str, moment: str) -> "subprocess.CompletedProcess[str]":
    (models / "r.yml").write_text(LINEAR)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STOPPED, word, moment]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=models)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["write", "commit"])
def test_interrupted_before_the_weights_are_in_place(models: Path, moment: str):
    done = stopped(models, "SIGINT", moment)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "error: interrupted")
    assert not (models / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["write", "commit", "replace", "write_text", "write_config"])
def test_killed_at_any_moment(models: Path, moment: str):
    done = stopped(models, "SIGKILL", moment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    out = models / "out"
    assert not (out / "config.json").exists()  # so nobody takes it for a model
    visible = [path for path in out.iterdir() if not path.name.startswith(".")]
    expected = merged(LINEAR, models / "whole")
    if any(path.suffix == ".safetensors" for path in visible):
        assert read_weights(out).keys() == expected.keys()
    (out / ".recipe.yaml.4194304999.tmp").write_text("of a process that is gone")

    assert merged(LINEAR, out).keys() == expected.keys()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert all((out / path.name).read_bytes() == path.read_bytes() for path in (models / "whole").iterdir())
