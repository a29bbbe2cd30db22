"""What is handed over: whole, by name, with nothing that was not meant for others."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from mergeopt.checkpoint.hashing import hash_of
from mergeopt.errors import InputError
from mergeopt.merge.lock import Lock
from mergeopt.report.submit.bundle import write_bundle
from mergeopt.report.submit.checks import Subject
from mergeopt.report.submit.evidence import Evidence, read_evidence
from mergeopt.report.submit.hub import Benchmark
from mergeopt.report.submit.parents import Parents
from tests.cli.test_commands import call
from tests.study.family import recipe

RESULTS = {
    "results": {"gsm8k": {"exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": 0.01, "alias": "gsm8k"}},
    "n-shot": {"gsm8k": 5},
    "config": {"model": "hf", "model_args": {"pretrained": "/home/me/secret"}, "limit": 8, "model_dtype": "float32"},
    "configs": {"gsm8k": {"dataset_kwargs": {"data_files": {"test": "/home/me/secret/x.jsonl"}}, "f": len}},
    "pretty_env_info": "host secret", "model_name": "/home/me/secret", "date": 1764115200.0,
}  # fmt: skip
SAMPLE = {"doc_id": 0, "doc": {"q": "secret"}, "resps": [["secret"]], "doc_hash": "a", "exact_match": 1.0}
EVIDENCE = Evidence(RESULTS, {"gsm8k": [SAMPLE]})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_of_a_bundle(merged: Path, tmp_path: Path) -> None:
    (merged / "search").mkdir()
    for stray in ("search/items.jsonl", "notes.txt", ".env", "modeling.py", "optimizer.pt"):
        (merged / stray).write_text("secret")
    (merged / "LICENSE").write_text("MIT")
    bundle = write_bundle(Subject.open(merged), tmp_path / "b", name="it", evidence=EVIDENCE)
    held = contents(tmp_path / "b")
    assert set(held) - {".mergeopt-bundle"} == set(bundle.files) == {
        "LICENSE", "README.md", "SHA256SUMS", "config.json", "generation_config.json", "mergekit_config.yml",
        "model.safetensors", "recipe.lock.json", "recipe.yaml", "tokenizer.json", "tokenizer_config.json",
        ".eval_results/gsm8k.yaml", "lm_eval/results_2025-11-26T00-00-00.json",
        "lm_eval/samples_gsm8k_2025-11-26T00-00-00.jsonl",
    }  # fmt: skip
    assert not any(b"secret" in data or b"zoo/" in data for data in held.values())
    assert (tmp_path / "b" / "model.safetensors").samefile(merged / "model.safetensors")
    assert not (tmp_path / "b" / "README.md").samefile(merged / "README.md")
    sums = dict(reversed(line.split("  ")) for line in held["SHA256SUMS"].decode().splitlines())
    assert sums.keys() == bundle.files.keys() - {"SHA256SUMS"}
    assert all(hashlib.sha256(held[name]).hexdigest() == digest for name, digest in sums.items())
    lock = Lock.read(tmp_path / "b")
    assert lock.recipe == hash_of(held["recipe.yaml"]) and set(lock.inputs) == {
        "local:base",
        "local:upper",
        "local:sort",
    }
    entry = yaml.safe_load(held[".eval_results/gsm8k.yaml"])
    assert entry == [
        {
            "dataset": {"id": "openai/gsm8k", "task_id": "main"},
            "value": 50.0,
            "date": "2025-11-26",
            "notes": "lm-eval gsm8k, exact_match,strict-match, 5-shot, first 8 items only",
        }
    ]
    public = json.loads(held["lm_eval/results_2025-11-26T00-00-00.json"])
    assert public["config"] == {"model": "it", "limit": 8, "model_dtype": "float32"}
    assert public["configs"]["gsm8k"]["dataset_kwargs"]["data_files"]["test"] == "x.jsonl"


def test_texts_only_if_asked_for_and_an_earlier_bundle_goes(merged: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    write_bundle(Subject.open(merged), out, name="it", evidence=EVIDENCE, texts=True)
    assert any(b"secret" in data for name, data in contents(out).items() if "samples" in name)
    write_bundle(Subject.open(merged), out, name="it")
    assert not (out / "lm_eval").exists()
    (out / ".mergeopt-bundle").unlink()
    with pytest.raises(InputError, match="no earlier bundle"):
        write_bundle(Subject.open(merged), out, name="it")
    assert (out / "model.safetensors").exists()
    with pytest.raises(InputError, match="--benchmark needs results"):
        write_bundle(Subject.open(merged), tmp_path / "c", name="it", benchmarks=[Benchmark.parse("a,b=c/d:e")])
    assert not (tmp_path / "c").exists() and not list(tmp_path.glob(".*.tmp"))


def test_benchmarks_are_named_by_the_user() -> None:
    each = Benchmark.parse("gsm8k,exact_match,strict-match=org/set:task*1")
    assert each == Benchmark("gsm8k", "exact_match,strict-match", "org/set", "task", 1.0)
    assert Benchmark.parse("a,acc=org/set:t") == Benchmark("a", "acc,none", "org/set", "t")
    for text in ("a=org/set:t", "a,acc=set:t", "a,acc=org/set", ""):
        with pytest.raises(InputError, match="is not understood"):
            Benchmark.parse(text)


def test_evidence_is_read_from_lm_evals_output(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "model"
    folder.mkdir(parents=True)
    for stamp, value in (("2025-01-01T00-00-00.1", 0.1), ("2025-02-01T00-00-00.2", 0.2)):
        results = {"results": {"a": {"acc,none": value, "acc_stderr,none": "N/A"}}}
        (folder / f"results_{stamp}.json").write_text(json.dumps(results))
        (folder / f"samples_a_{stamp}.jsonl").write_text(json.dumps({"doc_id": value}) + "\n")
    found = read_evidence(tmp_path / "out")
    assert found.scores == {"a": {"acc,none": 0.2}} and found.samples == {"a": [{"doc_id": 0.2}]}
    for text, problem in (("[", "not JSON"), ("[]", "not a JSON object"), ('{"results": 3}', "no results of lm-eval")):
        bad = tmp_path / "results_bad.json"
        bad.write_text(text)
        with pytest.raises(InputError, match=problem):
            read_evidence(bad)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no results"):
        read_evidence(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot be read"):
        read_evidence(tmp_path / "none.json")


def test_public_texts() -> None:
    parents = Parents({"/home/me/a": "local:a", "org/b": "org/b"})
    given = {
        "/home/me/a": "local:a",
        "org/b": "org/b",
        "runs/zoo/x.weight[mlp].0": "x.weight[mlp].0",
        "ties 0.5/0.5": "ties 0.5/0.5",
        "C:\\me\\x": "x",
        "the start in /home/me/r.yml is near": "the start in r.yml is near",
        "https://huggingface.co/org/b": "https://huggingface.co/org/b",
        "and/or so": "and/or so",
    }
    assert {text: parents.text(text) for text in given} == given
    assert parents.leaks("see /home/me/a and org/b") == ["/home/me/a", "/home/me/a"]
    assert parents.leaks("in C:\\me\\x, /Users/me/b) or https://huggingface.co/data/x") == ["C:\\me\\x,", "/Users/me/b"]


def test_a_chain_and_models_of_the_hub_under_public_names(work: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--org--sorter" / "snapshots" / "0123abcd"
    shutil.copytree("zoo/sort", cached)
    first = recipe(0.5) | {"name": "half/way"}
    first["models"][1]["model"] = str(cached)
    second = {"merge_method": "linear", "models": [{"model": m} for m in ("half/way", str(work / "zoo/base"))]}
    path = tmp_path / "chain.yml"
    path.write_text(yaml.safe_dump_all([first, second | {"parameters": {"weight": 0.5}, "dtype": "float32"}]))
    made = call("merge", path, tmp_path / "m", "-q")
    assert made.exit_code == 0, made.output
    write_bundle(Subject.open(tmp_path / "m"), tmp_path / "b", name="it")
    texts = {name: data.decode() for name, data in contents(tmp_path / "b").items() if not name.endswith("safetensors")}
    assert not [name for name, text in texts.items() if str(tmp_path) in text or "zoo/" in text or "half/way" in text]
    stages = list(yaml.safe_load_all(texts["recipe.yaml"]))
    assert stages[0]["name"] == stages[1]["models"][0]["model"] == "way"
    assert "base_model: [org/sorter]" in texts["README.md"] and "org/sorter@0123abcd" in texts["README.md"]
