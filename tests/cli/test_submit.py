"""`mergeopt submit`, as typed."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.test_commands import call, refused
from tests.study.family import recipe, write_yaml


@pytest.fixture
def merged(work: Path, tmp_path: Path) -> Path:
    call("merge", write_yaml(tmp_path / "r.yml", recipe(0.5)), tmp_path / "m", "-q")
    return tmp_path / "m"


def test_checks_results_and_bundle(merged: Path) -> None:
    dry = call("submit", merged, "--dry-run", "--push", "me/x")
    assert (dry.exit_code, dry.stderr) == (0, "")
    lines = dry.stdout.splitlines()
    assert lines[0] == "ok    config: LlamaForCausalLM loads"
    assert lines[-1] == f"would write {merged}/submission with no lm-eval results, then push to me/x (private)"
    assert not (merged / "submission").exists()
    result = call("submit", merged, "--tasks", "evals/upper_first.yaml,evals/sort_lines.yaml", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "none of these scores is of a benchmark" in result.stderr
    (found,) = (merged / "submission" / "lm_eval").glob("results_*.json")
    results = json.loads(found.read_text())
    assert results["model_name"] == "m" and results["config"]["apply_chat_template"] is False
    evaluated = json.loads(call("eval", merged, "evals/upper_first.yaml", "--device", "cpu", "--json").stdout)
    score = evaluated[0]["evals"]["upper_first"]["value"]
    assert results["results"]["upper_first"]["exact_match,none"] == pytest.approx(score)
    samples = next((merged / "submission" / "lm_eval").glob("samples_upper_first_*.jsonl")).read_text().splitlines()
    assert len(samples) == 30 and set(json.loads(samples[0])) == {
        "doc_id", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash", "exact_match",
    }  # fmt: skip
    named = "upper_first,exact_match=org/upper:first"
    again = call("submit", merged, "--results", found.parent, "--benchmark", named, "--json")
    assert again.exit_code == 0 and again.stderr == ""
    files = json.loads(again.stdout)["files"]
    assert ".eval_results/upper.yaml" in files and str(found.relative_to(merged / "submission")) in files


def test_the_points_of_the_closed_leaderboard(merged: Path, tmp_path: Path) -> None:
    results = tmp_path / "results_x.json"
    results.write_text(json.dumps({"results": {"leaderboard_mmlu_pro": {"acc,none": 0.55}}}))
    said = call("submit", merged, "--results", results)
    assert "MMLU-PRO    50.00  (raw 0.5500)" in said.stdout and "takes no models since 2025" in said.stdout
    assert "no average: not all six were measured" in said.stdout
    assert (merged / "submission" / ".eval_results" / "mmlu-pro.yaml").exists()


def test_what_stops_it(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "run the tasks, or attach results" in refused("submit", merged, "--tasks", "a", "--results", "b")
    assert "no such folder" in refused("submit", tmp_path / "none")
    assert "is not understood" in refused("submit", merged, "--benchmark", "x")
    weights = load_file(merged / "model.safetensors")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, merged / "model.safetensors")
    bad = call("submit", merged)
    assert bad.exit_code == 1 and "FAIL  weights: NaN or infinity in model.norm.weight" in bad.stdout
    assert bad.stderr.splitlines()[-1] == "error: nothing was written: weights, hashes must be mended first"
    assert not (merged / "submission").exists()


def test_data_that_is_not_there_and_no_network(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = call("submit", merged, "--tasks", "no_such_task.yaml")
    assert said.exit_code == 2 and "no such file: no_such_task.yaml" in said.stderr
    assert not (merged / "submission").exists()
    pushed = call("submit", merged, "--push", "me/model")
    assert pushed.exit_code == 1
    line = pushed.stderr.splitlines()[-1]
    assert line.startswith("error: not pushed: HF_HUB_OFFLINE is set") and f"{merged}/submission" in line
    assert (merged / "submission" / "SHA256SUMS").exists()
    as_json = call("submit", merged, "--push", "me/model", "--json")
    assert as_json.exit_code == 1 and json.loads(as_json.stdout)["pushed"] is None
