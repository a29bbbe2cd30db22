"""Items, splits and errors of a suite built from files."""

import json

import pytest
import yaml

from mergeopt.errors import InputError
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.scoring.splits import Shares, content_hash
from mergeopt.scoring.suite import Suite, find_task_file


def build(tokenizer, *entries, **arguments):
    return Suite.build([e if isinstance(e, ObjectiveEntry) else ObjectiveEntry(**e) for e in entries],
                       tokenizer=tokenizer, **arguments)  # fmt: skip


def counts(suite, name):
    return {
        split: len(hashes) for split, hashes in suite.evals[[e.name for e in suite.evals].index(name)].hashes.items()
    }


def test_one_pool_is_cut_into_four(tokenizer, make_task):
    suite = build(tokenizer, {"eval": str(make_task("generate", train=100))}, calibrate_used=True)
    assert counts(suite, "generate") == {"calibrate": 20, "search": 40, "select": 20, "report": 20}
    assert len(suite.notices) == 1 and "20 items to report" in suite.notices[0]
    info = suite.evals[0]
    assert (info.metric, info.higher_is_better, info.count("search"), info.count("all")) == (
        "exact_match,none",
        True,
        40,
        0,
    )


def test_a_test_split_is_the_report_and_unused_calibrate_joins_search(tokenizer, make_task):
    suite = build(tokenizer, {"eval": str(make_task("generate", train=80, test=50))})
    assert counts(suite, "generate") == {"search": 60, "select": 20, "report": 50}


def test_items_of_the_report_are_not_searched_on(tokenizer, make_task, tmp_path):
    path = make_task("generate", train=60, test=40)
    test, train = tmp_path / "generate.test.jsonl", tmp_path / "generate.train.jsonl"
    train.write_text(train.read_text() + "".join(test.read_text().splitlines(keepends=True)[:7]))
    suite = build(tokenizer, {"eval": str(path)})
    assert any("7 items of train also stand in test" in notice for notice in suite.notices)
    hashes = suite.evals[0].hashes
    assert not set(hashes["report"]) & (set(hashes["search"]) | set(hashes["select"]))


def test_the_order_of_the_file_does_not_matter(tokenizer, make_task, tmp_path):
    path = make_task("generate", train=60)
    before = build(tokenizer, {"eval": str(path)}).evals[0].hashes
    data = tmp_path / "generate.train.jsonl"
    data.write_text("".join(reversed(data.read_text().splitlines(keepends=True))))
    suite = build(tokenizer, {"eval": str(path)})
    assert suite.evals[0].hashes == before
    assert [item.hash for item in suite.items("generate", "search")] == list(before["search"])


def test_another_seed_and_limit_choose_other_items(tokenizer, make_task):
    path = str(make_task("generate", train=80))
    zero, one = (build(tokenizer, {"eval": path}, seed=s).evals[0].hashes["search"] for s in (0, 1))
    assert set(zero) != set(one)
    assert counts(build(tokenizer, {"eval": path, "limit": 40}), "generate")["search"] == 24


def test_examples_come_from_outside_every_split_and_from_the_content(tokenizer, make_task, tmp_path):
    path = make_task("generate", train=80)
    suite = build(tokenizer, {"eval": str(path), "num_fewshot": 3})
    split = {h for hashes in suite.evals[0].hashes.values() for h in hashes}
    assert len(split) == 80 - 8  # a tenth of the pool
    rows = [json.loads(line) for line in (tmp_path / "generate.train.jsonl").read_text().splitlines()]
    own = {row["q"] for row in rows if content_hash(row) not in split}
    contexts = {i.hash: i.requests[0].context for i in suite.items("generate", "search")}
    for context in contexts.values():
        shots = [part.split("upper: ")[1].split(" =>")[0] for part in context.split("\n\n")[:-1]]
        assert len(shots) == 3 and set(shots) <= own
    smaller = build(
        tokenizer, {"eval": str(path), "num_fewshot": 3}, shares=Shares(0.5, 0.1, 0.2, 0.2), calibrate_used=True
    )
    again = {i.hash: i.requests[0].context for i in smaller.items("generate", "search")}
    both = again.keys() & contexts.keys()
    assert both and all(again[h] == contexts[h] for h in both)


def test_an_own_fewshot_split_is_left_alone(tokenizer, make_task, tmp_path):
    path = make_task("generate", train=60, test=40, name="own")
    extra = tmp_path / "shots.jsonl"
    extra.write_text(
        "".join(json.dumps({"n": i, "q": "hh", "a": "H", "choices": ["H"], "label": 0}) + "\n" for i in range(3))
    )
    task = yaml.safe_load(path.read_text())
    task["dataset_kwargs"]["data_files"]["dev"] = extra.name
    task["fewshot_split"] = "dev"
    path.write_text(yaml.safe_dump(task))
    suite = build(tokenizer, {"eval": str(path), "num_fewshot": 2})
    assert counts(suite, "own")["search"] == 45  # nothing set aside
    assert all(i.requests[0].context.count("upper: hh =>  H\n\n") == 2 for i in suite.items("own", "search"))


def test_whole_is_what_lm_eval_evaluates(tokenizer, make_task):
    path = str(make_task("generate", train=20, test=10))
    suite = Suite.whole([ObjectiveEntry(eval=path, limit=4)], tokenizer=tokenizer)
    assert counts(suite, "generate") == {"all": 4}
    assert [doc["n"] for doc in suite.docs("generate", "all")] == [2000, 2001, 2002, 2003]
    with pytest.raises(InputError, match="no search items"):
        suite.docs("generate", "search")


def test_two_metrics_of_one_task_have_two_names(tokenizer, make_task):
    path = str(make_task("choice", train=60))
    suite = build(tokenizer, {"eval": path}, {"eval": path, "metric": "acc_norm"})
    assert [e.name for e in suite.evals] == ["choice", "choice:acc_norm,none"]
    with pytest.raises(InputError, match="stands twice"):
        build(tokenizer, {"eval": path}, {"eval": path}, {"eval": path})


def test_a_tasks_own_zero_shots_are_final_and_said(tokenizer, make_task):
    suite = build(tokenizer, {"eval": str(make_task("generate", num_fewshot=0)), "num_fewshot": 2})
    assert any("num_fewshot: 0, so 2 is not used" in notice for notice in suite.notices)


def test_direction_overrides_lm_eval(tokenizer, make_task):
    suite = build(tokenizer, {"eval": str(make_task("rolling")), "direction": "max"})
    assert suite.evals[0].higher_is_better


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"metric": "exact_mach"}, r"no metric 'exact_mach'; did you mean 'exact_match'"),
        ({"filter": "strict"}, r"no filter 'strict'; known: none"),
        ({"source": "validation"}, "declares no validation split"),
        ({"num_fewshot": 70}, "too few for 70-shot prompts"),
        ({"limit": 3}, "1 item in the"),
    ],
)
def test_mistakes_in_an_entry_are_named(entry, message, tokenizer, make_task):
    path = make_task("generate", test=30)
    with pytest.raises(InputError, match=message):
        build(tokenizer, {"eval": str(path), **entry})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doc_to_text": "{{absent}}"}, "'absent' is undefined"),
        ({"doc_to_text": "{{q.__class__.__mro__}}"}, "attribute '__class__' of 'str' object is unsafe"),
        ({"doc_to_target": r"{{q['\x5f\x5fclass\x5f\x5f']}}"}, "attribute '__class__' of 'str' object is unsafe"),
        ({"test_split": "tset"}, "names 'tset'"),
        ({"output_type": "essay"}, "invalid output_type 'essay'"),
        ({"task": None}, "`task:` must be its name"),
        (
            {"metric_list": [{"metric": "exact_match", "aggregation": "average"}]},
            "no such aggregation for 'exact_match'",
        ),
    ],
)
def test_mistakes_in_a_task_are_one_line(change, message, tokenizer, make_task):
    path = make_task("generate", test=30, **change)
    with pytest.raises(InputError, match=message) as caught:
        build(tokenizer, {"eval": str(path)})
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_broken_line_of_data_is_named(tokenizer, make_task, tmp_path):
    path = make_task("generate")
    with (tmp_path / "generate.train.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(InputError, match=r"generate.train.jsonl:41: not JSON"):
        build(tokenizer, {"eval": str(path)})


def test_a_task_with_training_data_only(tokenizer, make_task):
    path = make_task("generate", train=60)
    task = yaml.safe_load(path.read_text())
    del task["validation_split"]
    path.write_text(yaml.safe_dump(task))
    assert counts(build(tokenizer, {"eval": str(path)}), "generate")["search"] == 36


def test_searching_on_a_foreign_test_split_needs_a_flag(tokenizer, make_task, monkeypatch):
    from mergeopt.scoring import task_loader

    path = str(make_task("generate", train=60, test=60))
    build(tokenizer, {"eval": path, "source": "test"})  # the user's own data
    monkeypatch.setattr(task_loader, "is_local", lambda config: False)
    with pytest.raises(InputError, match="--allow-benchmark"):
        build(tokenizer, {"eval": path, "source": "test"})
    suite = build(tokenizer, {"eval": path, "source": "test"}, allow_benchmark=True)
    assert counts(suite, "generate") == {"search": 36, "select": 12, "report": 12}


def test_evals_are_found_in_the_working_folder_then_near_the_search_file(tmp_path, monkeypatch):
    here, near = tmp_path / "here", tmp_path / "near"
    for folder, name in [(here, "a.yaml"), (near, "b.yaml"), (here, "c.yaml"), (near, "c.yaml")]:
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    monkeypatch.chdir(here)
    assert find_task_file("a.yaml", near) == here / "a.yaml"
    assert find_task_file("b.yaml", near) == near / "b.yaml"
    assert find_task_file("hellaswag", near) is None
    with pytest.raises(InputError, match="ambiguous"):
        find_task_file("c.yaml", near)
    with pytest.raises(InputError, match=r"no such eval file: bb.yaml; did you mean 'b.yaml'"):
        find_task_file("bb.yaml", near)


@pytest.mark.slow
def test_an_unknown_name_suggests_one_of_lm_evals(tokenizer):
    with pytest.raises(InputError, match=r"knows no eval 'hellaswg'.*did you mean 'hellaswag'"):
        build(tokenizer, {"eval": "hellaswg"})


def test_an_empty_objective_is_refused(tokenizer):
    with pytest.raises(InputError, match="objective is empty"):
        build(tokenizer)
