"""Full disks, signals, hostile names: no half file under a final name, one clear line, a clean start afterwards."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from mergeopt.checkpoint.header import encode_header
from mergeopt.checkpoint.staging import claimed
from mergeopt.cli.main import app
from tests.conftest import llama_weights, read_weights, write_model

DARE = """
merge_method: dare_ties
base_model: {base}
models: [{{model: {a}, parameters: {{weight: 0.5, density: 0.5}}}}]
"""


def call(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def recipe(folder: Path, base: str = "base", a: str = "a") -> Path:
    path = folder / "recipe.yml"
    path.write_text(DARE.format(base=json.dumps(base), a=json.dumps(a)))
    return path


def start(*words: object, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mergeopt", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, **options)  # type: ignore[call-overload, no-any-return]


def write_large(folder: Path, elements: int = 1 << 26) -> None:
    """A model of zeros that takes a second to merge and no room on the disk."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    head, (offset,) = encode_header([("model.embed_tokens.weight", "bfloat16", (elements,))])
    with (folder / "model.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(offset + 2 * elements)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_merge_that_is_stopped(models: Path, number: signal.Signals, code: int) -> None:
    for name in ("big", "big2"):
        write_large(models / name)
    out = models / "out"
    process = start("merge", recipe(models, "big", "big2"), out)
    try:
        while not (out.is_dir() and any(out.iterdir())):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == code
    if number == signal.SIGKILL:
        assert all(path.name.startswith(".mergeopt-writing-") for path in out.iterdir())
    else:
        assert not out.exists() and said.splitlines()[-1].startswith("error: ")
    again = call("merge", recipe(models), out)  # without --force: what is left there is ours
    assert (again.exit_code, again.stderr) == (0, "")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_disk_that_is_full(models: Path) -> None:
    limit = (4096, 4096)  # no file may grow beyond it: the nearest to a full disk that needs no privilege
    process = start(
        "merge", recipe(models), models / "out", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and said.startswith("error: ") and len(said.splitlines()) == 1
    assert "File too large while writing" in said
    assert not (models / "out").exists()


def test_out_is_no_folder_to_write_to(models: Path) -> None:
    (models / "file").touch()
    for out, words in (
        ("file", "file: is a file, not a folder"),
        ("file/out", "cannot be written to: Not a directory"),
        ("a", "is not empty"),
        ("a/out", "lies in the folder of 'a'; give another OUT"),
        ("/proc/out", "cannot be written to"),
        ("x" * 300, "File name too long"),
    ):
        result = call("merge", recipe(models), out)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.stderr
        assert words in result.stderr
    assert "is the folder of 'a'" in call("merge", recipe(models), "a", "--force").stderr
    assert {path.name for path in models.iterdir()} == {"a", "b", "base", "file", "recipe.yml"}


def test_two_merges_into_one_folder(models: Path) -> None:
    out = models / "out"
    with claimed(out):
        refused = call("merge", recipe(models), out)
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"error: {out}: another process is writing a model there; wait for it")
    assert not out.exists()
    assert call("merge", recipe(models), out).exit_code == 0


def test_what_a_killed_process_left_of_a_small_file_is_swept(models: Path) -> None:
    out = models / "out"
    out.mkdir()
    (out / ".config.json.4711.tmp").write_text("{")
    assert call("merge", recipe(models), out).exit_code == 0
    assert not (out / ".config.json.4711.tmp").exists()


def test_an_earlier_models_tokenizer_and_template_go(models: Path) -> None:
    (models / "base" / "chat_template.jinja").write_text("{{ old }}")
    assert call("merge", recipe(models), "out").exit_code == 0
    (models / "base" / "chat_template.jinja").unlink()
    assert call("merge", recipe(models), "out", "--force").exit_code == 0
    assert not (models / "out" / "chat_template.jinja").exists()
    assert call("reproduce", "out").exit_code == 0


@pytest.mark.parametrize(
    "name", ["[bold red]x[/]", "a model", "😀", "[/nonsense]", "a+b", "x@y", "-rf", "\x1b[31mred", "a\tb"]
)
def test_models_of_any_name(models: Path, name: str) -> None:
    (models / name).parent.mkdir(exist_ok=True)
    (models / "a").rename(models / name)
    path = recipe(models)
    path.write_text(DARE.format(base="base", a=json.dumps({"model": {"path": name}})))
    merged = call("merge", path, "out")
    assert merged.exit_code == 0, merged.output
    assert call("reproduce", "out").exit_code == 0
    said = call("explain", path, "-t", "norm").stdout
    assert "\x1b" not in said and name.replace("\x1b", "\\x1b").replace("\t", "\\t") in said
    (models / name / "model.safetensors").write_bytes(b"broken")
    refused = call("merge", path, "again").stderr
    assert "\x1b" not in refused and len(refused.splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["../../up.weight", "/etc/passwd", "x" * 5000, "[red]x[/red]", "a b", "ü😀", "%s{0}", "."]
)
def test_tensors_of_any_name(models: Path, name: str) -> None:
    for folder in ("x", "y"):
        write_model(models / folder, {**llama_weights(), name: torch.ones(3)})
    assert call("merge", recipe(models, "x", "y"), "out").exit_code == 0
    assert torch.equal(read_weights(models / "out")[name], torch.ones(3))
    assert {path.name for path in models.iterdir()} == {"a", "b", "base", "x", "y", "out", "recipe.yml"}
    weights = {**read_weights(models / "out"), name: torch.zeros(3)}
    write_model(models / "changed", weights)
    (models / "changed" / "model.safetensors").replace(models / "out" / "model.safetensors")
    said = call("reproduce", "out")
    assert said.exit_code == 1 and f"  {name} (3 of 3 elements" in said.stdout


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "\u202egnp.exe", "\x00"])
def test_a_tensors_name_that_cannot_be_printed_is_refused(models: Path, name: str) -> None:
    write_model(models / "x", {**llama_weights(), name: torch.ones(3)})
    refused = call("merge", recipe(models, a="x"), "out")
    assert refused.exit_code == 2 and refused.stderr.isascii() and len(refused.stderr.splitlines()) == 1
    assert "a tensor's name must be printable text" in refused.stderr


def test_escape_codes_in_a_recipe_are_spelled_out(models: Path) -> None:
    path = models / "r.yml"
    path.write_text('merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"\\e[31m": 1\n')
    result = call("validate", path)
    assert result.exit_code == 0 and "\x1b" not in result.output and "\\x1b[31m" in result.output


def test_a_config_that_is_nested_or_enormous(models: Path) -> None:
    file = models / "base" / "config.json"
    text = file.read_text().rstrip("}")
    file.write_text(f'{text}, "deep": {"[" * 400}{"]" * 400}, "long": {json.dumps("x" * 10**6)}' + "}")
    assert call("merge", recipe(models), "out").exit_code == 0
    assert json.loads((models / "out" / "config.json").read_text())["long"] == "x" * 10**6
    file.write_text(f'{text}, "deep": {"[" * 10**5}{"]" * 10**5}' + "}")
    refused = call("merge", recipe(models), "again")
    assert refused.exit_code == 2 and "config.json: not valid JSON" in refused.stderr
