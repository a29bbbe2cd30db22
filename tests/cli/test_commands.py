"""Every command, as typed: what it prints, where, and with which exit code."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mergeopt.cli.main import app
from mergeopt.files import shipped
from mergeopt.study.lock import StudyLock
from tests.conftest import read_weights, write_adapter
from tests.study.family import hole, recipe, search_data, write_yaml

COMMANDS = ("merge", "search", "eval", "validate", "explain", "diagnose", "reproduce", "report", "submit", "zoo")


def call(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "100"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def refused(*words: object, code: int = 2) -> str:
    """What the command says when it fails: one line, and nothing on stdout."""
    result = call(*words)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.exit_code == code and len(lines) == 1 and lines[0].startswith("error: "), result.output
    assert result.stdout == ""
    return lines[0].removeprefix("error: ")


def test_help_lists_every_command() -> None:
    said = call("--help").output
    assert all(f" {name} " in said for name in COMMANDS)
    for name in COMMANDS:
        assert call(name, "--help").exit_code == 0
    assert call("--version").output.startswith("mergeopt 0")
    assert call("mrege").exit_code == 2


def test_merge_writes_a_model_folder(work: Path, tmp_path: Path) -> None:
    result = call("merge", write_yaml(tmp_path / "r.yml", recipe(0.5)), tmp_path / "out")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"21 tensors by task_arithmetic -> {tmp_path / 'out'}\n"
    merged, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", work / "zoo" / "base"))
    name = "model.layers.0.mlp.up_proj.weight"
    deltas = [load_file(f"zoo/{task}/model.safetensors")[name] - base[name] for task in ("upper", "sort")]
    torch.testing.assert_close(merged[name], base[name] + 0.5 * (deltas[0] + deltas[1]))
    quiet = call("merge", tmp_path / "r.yml", tmp_path / "out", "--force", "--quiet", "--max-shard-size", "40KB")
    assert (quiet.exit_code, quiet.output) == (0, "")
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()


def test_reproduce_compares_and_says_who_changed_what(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("merge", write_yaml(tmp_path / "r.yml", recipe(0.5)), out)
    same = call("reproduce", out)
    assert (same.exit_code, same.stderr) == (0, "")
    assert same.stdout == f"{out} is what its recipe gives: 21 tensors and 4 files, byte for byte\n"
    weights = load_file(out / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    other = call("reproduce", out)
    assert other.exit_code == 1 and other.stdout.splitlines() == [
        f"{out} differs: 1 of 21 tensors, 0 other files",
        "the folder was changed after the merge:",
        "  model.norm.weight (1 of 32 elements, by at most 1)",
    ]
    data = json.loads(call("reproduce", out, "--json", "--out", tmp_path / "again").stdout)
    assert (data["equal"], data["tensors"], data["files"]) == (False, 21, 4)
    assert data["differences"][0]["blame"] == "folder"
    assert call("reproduce", tmp_path / "again", "--quiet").output == ""
    assert "--out" not in refused("reproduce", out, "--out", tmp_path / "again")
    assert "is not NAME=FOLDER" in refused("reproduce", out, "--models", "zoo/base")
    assert "no recipe.lock.json" in refused("reproduce", work / "zoo" / "base")
    assert "no such folder" in refused("reproduce", out, "--models", f"zoo/base={tmp_path / 'gone'}")


def test_merge_with_an_adapter_and_with_numbers_that_are_none(models: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    added = write_adapter(models / "lora", {name.removesuffix(".weight"): (24, 16)})[name]
    sources = [{"model": "base+lora", "parameters": {"weight": 1}}, {"model": "b", "parameters": {"weight": 1}}]
    data = {"merge_method": "task_arithmetic", "base_model": "base", "models": sources}
    result = call("merge", write_yaml(models / "r.yml", data), models / "out")
    assert (result.exit_code, result.stderr) == (0, "")
    merged, base, b = (read_weights(models / folder)[name] for folder in ("out", "base", "b"))
    torch.testing.assert_close(merged, added + b, msg=str(base))
    assert call("explain", models / "r.yml", "-t", name).stdout.count("base+lora") == 1
    broken = {key: tensor.clone().fill_(float("nan")) for key, tensor in read_weights(models / "b").items()}
    save_file(broken, models / "b/model.safetensors")
    result = call("merge", models / "r.yml", models / "out", "--force")
    assert (
        result.exit_code == 0
        and "NaN or infinity in tensor" in result.stderr
        and "in 'b' and in 20 more" in result.stderr
    )
    assert "as it is in 'b'" in refused("merge", models / "r.yml", models / "strict", "--strict", "--quiet")
    assert not (models / "strict").exists()


def test_explain_gives_the_value_of_every_tensor(work: Path, tmp_path: Path) -> None:
    weight = [{"filter": "mlp", "value": [0.0, 1.0]}, {"value": 0.3}]
    path = write_yaml(tmp_path / "r.yml", recipe(weight, parameters={"lambda": 0.9}))
    data = json.loads(call("explain", path, "--json").stdout)
    assert data["method"] == "task_arithmetic" and len(data["tensors"]) == 21
    rows = {row["tensor"]: row for row in data["tensors"]}
    assert [rows[f"model.layers.{i}.mlp.up_proj.weight"]["sources"][0]["settings"]["weight"] for i in (0, 1)] == [
        0.0,
        1.0,
    ]
    embed = rows["model.embed_tokens.weight"]
    assert embed["sources"][1] == {
        "model": "zoo/sort",
        "tensor": "model.embed_tokens.weight",
        "settings": {"weight": 0.3},
    }
    assert (embed["settings"]["lambda"], embed["base"]) == (0.9, "zoo/base")
    text = call("explain", path, "-t", "layers.1.mlp.up").stdout
    assert text.splitlines()[1:] == [
        "model.layers.1.mlp.up_proj.weight  64×32 float32  normalize=False  lambda=0.9",
        "    zoo/upper  weight=1",
        "    zoo/sort  weight=1",
    ]


def test_validate_says_what_a_file_is(work: Path, tmp_path: Path) -> None:
    plain, space = write_yaml(tmp_path / "r.yml", recipe(0.5)), write_yaml(tmp_path / "s.yml", search_data())
    result = call("validate", plain, space)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"{plain}: a task_arithmetic recipe over 3 models"
    models = call("validate", "--models", plain, space)
    assert "21 tensors" in models.stdout and "a search of 2 numbers in 1 branches" in models.stdout
    bad = write_yaml(tmp_path / "bad.yml", recipe(0.5, method="tiess"))
    result = call("validate", "--json", bad, plain)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 2 and [row["ok"] for row in rows] == [False, True]
    assert "did you mean 'ties'?" in rows[0]["error"]
    vain = write_yaml(tmp_path / "vain.yml", recipe(0.5) | {"foo": 1})
    assert call("validate", vain).stderr.startswith(f"note: {vain}:")
    assert "unknown key 'foo' has no effect" in refused("validate", "--strict", vain)


def test_a_chain_in_one_file_or_in_several(work: Path, tmp_path: Path) -> None:
    half = recipe(0.5)
    whole = {
        "merge_method": "linear",
        "models": [{"model": "half"}, {"model": "zoo/sort"}],
        "parameters": {"weight": 1},
    }
    one, last = write_yaml(tmp_path / "half.yml", half), write_yaml(tmp_path / "last.yml", whole)
    both = tmp_path / "both.yml"
    both.write_text("name: half\n" + one.read_text() + "---\n" + last.read_text())
    assert call("merge", one, last, tmp_path / "a").stdout == f"2 stages, 21 tensors by linear -> {tmp_path / 'a'}\n"
    result = call("merge", both, tmp_path / "b", "-I", tmp_path / "stages")
    assert result.exit_code == 0
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "stages" / "half" / "config.json").exists() and not (tmp_path / "a.stages").exists()
    again = call("merge", both, tmp_path / "c", "-I", tmp_path / "stages")
    assert again.stderr == "note: the stage 'half' stands already and is used again\n"
    said = call("validate", "--models", both).stdout
    assert said == f"{both}: a chain of 2 stages over 3 models: half (task_arithmetic) -> output (linear), 21 tensors\n"
    lines = call("explain", both, "-t", "model.norm").stdout.splitlines()
    assert [line for line in lines if line.startswith(("stage", "output"))] == ["stage 'half'", "output"]
    data = json.loads(call("explain", one, last, "--json").stdout)
    assert (data["method"], data["stages"][0]["name"], len(data["stages"][0]["tensors"])) == ("linear", "half", 21)


def test_the_shipped_spaces_are_valid() -> None:
    files = sorted(shipped("search_spaces").glob("*.yml"))
    result = call("validate", *files)
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == len(files) > 5
    assert call("validate", "uniform-weights").exit_code == 0


def test_a_search_shows_its_table_and_leaves_a_folder(work: Path, tmp_path: Path) -> None:
    space = write_yaml(tmp_path / "s.yml", search_data(trials=3))
    result = call("search", space, tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0
    for word in ("upper_lines", "sort_lines", "objective", "uniform", "dare_ties 0.5/0.5", "3 trials (0 failed)"):
        assert word in result.stdout
    assert "(winner)" in result.stdout and f"wrote {tmp_path}"[:20] in result.stdout
    assert "searching 2 numbers" in result.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md", "config.json", "generation_config.json", "mergekit_config.yml", "model.safetensors",
        "recipe.lock.json", "recipe.yaml", "report.png", "result.json", "search", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    saved = json.loads((tmp_path / "out" / "result.json").read_text())
    again = call("search", space, tmp_path / "out", "--resume", "--json")
    printed = json.loads(again.stdout.splitlines()[-1])
    assert again.stderr == ""
    assert printed["rows"] == saved["rows"] and printed["winner"] == saved["winner"]
    assert (again.exit_code, printed["optimize"]["trials"]) == (0, 3)
    assert "is not empty; go on with --resume, or begin anew with --force" in refused("search", space, tmp_path / "out")
    lock = json.loads((tmp_path / "out" / "recipe.lock.json").read_text())
    assert set(lock["items"]) == {"upper_lines", "sort_lines"}
    anew = call("search", space, tmp_path / "out", "--force", "-q", "--set", "optimize.trials=1")
    assert (anew.exit_code, anew.output) == (0, "")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["trials"] == 1
    assert "is what its recipe gives" in call("reproduce", tmp_path / "out").stdout


def test_force_does_not_take_a_living_study_away(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "search"
    folder.mkdir(parents=True)
    space = write_yaml(tmp_path / "s.yml", search_data(trials=1))
    lock = StudyLock(folder / "lock")
    assert f"process {os.getpid()} on " in refused("search", space, tmp_path / "out", "--force")
    lock.release()
    assert call("search", space, tmp_path / "out", "--force", "-q").exit_code == 0


def test_a_plain_recipe_is_searched_with_free(work: Path, tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "r.yml", recipe(0.5))
    words = ["--free", "weight", "--eval", "evals/upper_lines.yaml", "--set", "optimize.trials=2"]
    result = call("search", path, tmp_path / "out", "-q", *words)
    assert result.exit_code == 0, result.output
    assert "nothing to search" in refused("search", path, tmp_path / "no")


def test_a_dry_run_touches_nothing(work: Path, tmp_path: Path) -> None:
    space = write_yaml(tmp_path / "s.yml", search_data())
    result = call("search", space, tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    words = [line.split()[0] for line in result.stdout.splitlines()]
    assert {"models", "trials", "space", "items", "memory", "disk", "detects"} <= set(words)
    assert "search 45, select 15, report 30" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["s.yml"]
    assert call("search", space, work, "--dry-run").exit_code == 0  # a full folder is no obstacle to asking


def test_eval_puts_models_side_by_side(work: Path) -> None:
    words = ["zoo/base", "evals/upper_lines.yaml", "zoo/upper", "evals/sort_lines.yaml", "--limit", "20"]
    rows = json.loads(call("eval", *words, "--json").stdout)
    assert [row["model"] for row in rows] == ["zoo/base", "zoo/upper"]
    assert set(rows[0]["evals"]) == {"upper_lines", "sort_lines"} == set(rows[1]["against"])
    table = call("eval", *words).stdout
    assert "zoo/base" in table and f"{rows[1]['evals']['upper_lines']['value']:.3f}" in table


BAD_SEARCHES: list[tuple[list[object], str]] = [
    (["nofile.yml", "OUT"], "no such file: nofile.yml"),
    (["uniform-weight", "OUT"], "did you mean 'uniform-weights'?"),
    (["SPACE", "SPACE"], "is a file, not a folder; give another OUT"),
    (["SPACE", "OUT", "--resume"], "search: there is no study to resume"),
    (["SPACE", "OUT", "--device", "cudda"], "no device 'cudda': unknown; use cpu, cuda or auto"),
    (["SPACE", "OUT", "--dtype", "int3"], "unknown dtype 'int3'"),
    (["SPACE", "OUT", "--batch-size", "no"], "batch size 'no' is not a number"),
    (["SPACE", "OUT", "--set", "optimize.trials"], "is not key=value"),
    (["SPACE", "OUT", "--set", "optimize.method=cmaess"], "optimize.method: no optimizer is called 'cmaess'"),
    (["SPACE", "OUT", "--set", "optimize.storage=nosql://x"], "storage: the storage cannot be opened"),
    (["SPACE", "OUT", "--set", "recipe.models.0.model=zoo/uper"], "zoo/uper is not on disk; did you mean 'upper'?"),
    (["SPACE", "OUT", "--set", "objective.0.at_most={bass: 1}"], "objective[0].at_most.bass: input should be 'base'"),
    (["SPACE", "OUT", "--set", "objective.0.limit=2"], "0 items in the select split of upper_lines; give more items"),
    (["SPACE", "OUT", "--set", "optimize.splits.select=0"], "optimize.splits.select: input should be greater than 0"),
    (["SPACE", "OUT", "--free", "weight"], "--free is for plain recipes; this is a search file"),
]


@pytest.mark.parametrize(("words", "said"), BAD_SEARCHES, ids=[said[:30] for _, said in BAD_SEARCHES])
def test_mistakes_in_a_search_leave_nothing(words: Sequence[str], said: str, work: Path, tmp_path: Path) -> None:
    space = write_yaml(tmp_path / "s.yml", search_data())
    names = {"SPACE": str(space), "OUT": str(tmp_path / "deep" / "out")}
    assert said in refused("search", *[names.get(word, word) for word in words])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.yml"]


def damaged(folder: Path, kind: str) -> Path:
    """A copy of a specialist with something wrong."""
    shutil.copytree("zoo/upper", folder)
    file, name = folder / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    weights = load_file(file)
    if kind == "no weights":
        file.unlink()
    elif kind == "missing shard":
        file.unlink()
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")})
        )
    elif kind == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    elif kind == "config":
        (folder / "config.json").write_text("{")
    elif kind == "shape":
        save_file(weights | {name: weights[name][:-1].clone()}, file)
    elif kind == "missing tensor":
        save_file({k: w for k, w in weights.items() if k != name}, file)
    elif kind == "tokenizer":
        for path in folder.glob("tokenizer*"):
            path.unlink()
    return folder


DAMAGE = {
    "no weights": "no weights: neither model.safetensors nor model.safetensors.index.json; is the download complete?",
    "missing shard": "model-00001-of-00001.safetensors",
    "truncated": "truncated: the header promises 142,800 bytes, the file has 71,400; copy or download it again",
    "config": "config.json: not valid JSON",
    "shape": "tensor 'model.layers.0.mlp.up_proj.weight' is [63, 32] in",
    "missing tensor": "lacks tensor 'model.layers.0.mlp.up_proj.weight', which 'zoo/sort' has; merge models of one",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_models_that_cannot_be_used(kind: str, work: Path, tmp_path: Path) -> None:
    model = str(damaged(tmp_path / "model", kind))
    plain, space = recipe(0.5), search_data()
    plain["models"][0]["model"] = space["recipe"]["models"][0]["model"] = model
    for name, data in (("merge", plain), ("search", space)):
        path = write_yaml(tmp_path / f"{name}.yml", data)
        said = refused(name, path, tmp_path / "out")
        assert DAMAGE[kind] in said and (str(path) in said or model in said)
        assert not (tmp_path / "out").exists()
    refused("validate", "--models", tmp_path / "merge.yml")
    refused("explain", tmp_path / "merge.yml")
    if "tensor" not in kind and kind != "shape":
        refused("eval", model, "evals/upper_lines.yaml")


def test_a_donor_without_tokenizer(work: Path, tmp_path: Path) -> None:
    model = str(damaged(tmp_path / "model", "tokenizer"))
    data = search_data()
    data["recipe"]["base_model"] = model
    said = refused("search", write_yaml(tmp_path / "s.yml", data), tmp_path / "out")
    assert f"{model}: the tokenizer cannot be loaded" in said and "copy the tokenizer files into the folder" in said


BAD_RECIPES: list[tuple[dict[str, Any], str]] = [
    ({"merge_method": "tiess"}, "r.yml:1 merge_method: unknown method 'tiess'; did you mean 'ties'?"),
    (
        {"models": [{"model": "zoo/upper"}]},
        "task_arithmetic needs 'weight' for 'zoo/upper'; add it under its parameters:",
    ),
    ({"models": [{"model": "zoo/upper", "parameters": {"weight": "x"}}]}, "r.yml:6 models[0].parameters.weight"),
    ({"base_model": "zoo/bsae"}, "r.yml: zoo/bsae is not on disk; did you mean 'base'?"),
    ({"base_model": "./nowhere"}, "r.yml: no such folder: './nowhere'"),
    ({"dtype": "float12"}, "dtype"),
]


@pytest.mark.parametrize(("change", "said"), BAD_RECIPES, ids=[said[:30] for _, said in BAD_RECIPES])
def test_mistakes_in_a_recipe(change: dict[str, Any], said: str, work: Path, tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "r.yml", recipe(0.5) | change)
    line = refused("merge", path, tmp_path / "out")
    assert said in line and "r.yml" in line
    assert not (tmp_path / "out").exists()


def test_what_a_recipe_says_in_vain(work: Path, tmp_path: Path) -> None:
    """A note, as mergekit would go on; with --strict an error."""
    vain = recipe(0.5) | {"foo": 1}
    vain["models"][0]["parameters"] = {"weight": [{"filter": "atn", "value": 1}, {"value": 0.5}]}
    path = write_yaml(tmp_path / "r.yml", vain)
    result = call("merge", path, tmp_path / "out")
    assert result.exit_code == 0
    assert "foo: unknown key 'foo' has no effect" in result.stderr and "filter 'atn' matches no tensor" in result.stderr
    refused("merge", path, tmp_path / "strict", "--strict")
    assert not (tmp_path / "strict").exists()
    del vain["foo"]
    said = refused("merge", write_yaml(path, vain), tmp_path / "strict", "--strict")
    assert "filter 'atn' matches no tensor" in said
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["merge", "nope.yml", "OUT"], "nope.yml: no such file"),
        (["merge", "zoo", "OUT"], "zoo: is a folder, not a YAML file"),
        (["merge", "R", "zoo"], "zoo: is not empty; give another folder, or --force"),
        (["merge", "R", "OUT", "--max-shard-size", "2XB"], "--max-shard-size '2XB' is not a size; write e.g. 2GB"),
        (["explain", "nope.yml"], "nope.yml: no such file"),
        (["validate", "nope.yml"], "no such file: nope.yml"),
        (["validate", "zoo"], "zoo: is a folder, not a YAML file"),
        (["eval", "zoo/upper"], "no eval given; mergeopt eval MODEL EVAL"),
        (["eval", "evals/upper_lines.yaml"], "no model given; mergeopt eval MODEL EVAL"),
        (["eval", "zoo/uper", "evals/upper_lines.yaml"], "zoo/uper is not on disk; did you mean 'upper'?"),
        (["eval", "zoo/upper", "evals/uper_lines.yaml"], "did you mean 'upper_lines.yaml'?"),
        (["eval", "zoo/upper", "evals/upper_lines.yaml", "--limit", "-3"], "--limit -3; give a number of items"),
        (["eval", "zoo/upper", "evals/upper_lines.yaml", "--split", "report"], "--split report is for the output"),
        (["zoo", "evals"], "evals: is not empty and has no zoo.json; give a new folder"),
    ],
)
def test_words_that_cannot_be_meant(words: list[str], said: str, work: Path, tmp_path: Path) -> None:
    names = {"R": str(write_yaml(tmp_path / "r.yml", recipe(0.5))), "OUT": str(tmp_path / "out")}
    assert said in refused(*[names.get(word, word) for word in words])
    assert not (tmp_path / "out").exists()


def test_an_eval_without_its_data(work: Path, tmp_path: Path) -> None:
    task = yaml.safe_load(Path("evals/upper_lines.yaml").read_text())
    task["dataset_kwargs"]["data_files"]["test"] = "uper_lines.test.jsonl"
    path = write_yaml(tmp_path / "broken.yaml", task)
    shutil.copy("evals/upper_lines.train.jsonl", tmp_path)
    shutil.copy("evals/upper_lines.test.jsonl", tmp_path)
    said = refused("eval", "zoo/upper", path)
    assert str(path) in said and "'uper_lines.test.jsonl'" in said and "did you mean 'upper_lines.test.jsonl'?" in said
    data = search_data()
    data["objective"][0]["eval"] = str(path)
    assert "did you mean" in refused("search", write_yaml(tmp_path / "s.yml", data), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = refused("merge", write_yaml(tmp_path / "r.yml", recipe(0.5)), tmp_path / "deep" / "out", code=1)
    assert re.search(r"the model needs \d+ kB, the disk has 1 kB free", said)
    assert not (tmp_path / "deep").exists()
    said = refused("search", write_yaml(tmp_path / "s.yml", search_data()), tmp_path / "deep" / "out", code=1)
    assert re.search(r"the model needs \d+ kB, the disk has 1 kB free", said)
    assert not (tmp_path / "deep").exists()  # said before the search, not after it


def test_models_that_compute_nan(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = search_data(recipe({"range": [1e38, 3e38]}) | {"dtype": "float16"}, trials=3)
    result = call("search", write_yaml(tmp_path / "s.yml", data), tmp_path / "out", "--json")
    printed = json.loads(result.stdout.splitlines()[-1])
    assert (result.exit_code, printed["trials"], printed["failed"], printed["learned"]) == (0, 3, 3, False)
    for name in ("base", "upper", "sort"):
        shutil.copytree(f"zoo/{name}", tmp_path / "zoo" / name)
        weights = load_file(f"zoo/{name}/model.safetensors")
        save_file({k: w * float("nan") for k, w in weights.items()}, tmp_path / "zoo" / name / "model.safetensors")
    shutil.copytree("evals", tmp_path / "evals")
    monkeypatch.chdir(tmp_path)
    result = call("search", write_yaml(tmp_path / "n.yml", search_data()), tmp_path / "nan")
    assert result.exit_code == 2
    said = result.stderr.splitlines()[-1]
    assert said == "error: neither base nor parents give finite scores; check the models with `mergeopt eval`"
    assert not (tmp_path / "nan").exists()


HOSTILE = ("a b", "[red]x", 'it\'s "so"', "`<b>|*_~`", "名前🙂", "- x: {y}", "#z")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import ModelCard

    monkeypatch.chdir(tmp_path)
    shutil.copytree(work / "zoo", tmp_path / "zoo")
    (tmp_path / "zoo" / "upper").rename(tmp_path / name)
    shutil.copytree(work / "evals", tmp_path / "evals")
    task = yaml.safe_load(Path("evals/upper_lines.yaml").read_text())
    write_yaml(tmp_path / "evals" / "upper_lines.yaml", task | {"task": "[bold]|up"})
    data = search_data(recipe(hole(), method="ties", parameters={"density": 0.5}), trials=2)
    data["recipe"]["models"][0]["model"] = name
    result = call("search", write_yaml(tmp_path / "s.yml", data), f"out {name}", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"\n {name} " in result.stdout and " [bold]|up " in result.stdout
    card = ModelCard.load(tmp_path / f"out {name}" / "README.md")
    assert card.data.tags == ["merge", "mergekit", "mergeopt"]
    configuration = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
    models = [entry["model"] for entry in configuration["models"]]
    assert f"local:{name}" in models or name not in result.stdout.split("(winner)")[0]
    rows = [line for line in card.text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "<b>" not in card.text.split("```yaml")[0].split("---")[-1]
    again = call("eval", f"out {name}", f"./{name}")
    assert again.exit_code == 0 and name in again.stdout
