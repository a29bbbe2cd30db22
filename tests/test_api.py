"""The Python API: the same work as the commands, as values that show themselves."""

import runpy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import mergeopt
from mergeopt import api
from mergeopt.errors import InputError
from mergeopt.recipe.write import to_yaml
from tests.conftest import read_weights
from tests.study.conftest import _data_cache, work  # noqa: F401
from tests.study.family import hole, recipe, search_data, write_yaml
from tests.test_imports import imported_by


def plain(method: str = "task_arithmetic") -> dict[str, Any]:
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in "ab"]
    return {"merge_method": method, "base_model": "base", "models": models}


def drawn(picture: Any) -> list[str]:
    """The texts of a picture, which is well-formed."""
    return [node.text or "" for node in ET.fromstring(picture._repr_svg_()).iter() if node.tag.endswith("text")]


def test_what_it_has_is_what_it_says() -> None:
    assert sorted(mergeopt.__all__) == sorted(api.__all__) and set(mergeopt.__all__) <= set(dir(mergeopt))
    for name in mergeopt.__all__:
        if name != "merge":
            assert getattr(mergeopt, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="has no attribute 'mrege'"):
        _ = mergeopt.mrege
    assert "torch" not in {name.split(".")[0] for name in imported_by("import mergeopt; mergeopt.merge")}


def test_merge_can_be_called_although_a_package_has_its_name(models: Path) -> None:
    code = f"import mergeopt.merge.stages, mergeopt; mergeopt.merge({plain()!r}, 'out')"
    assert "mergeopt.api" in imported_by(code) and (models / "out" / "config.json").exists()


def test_a_recipe_is_a_path_text_or_data(models: Path) -> None:
    path = write_yaml(models / "r.yml", plain())
    for given in (path, str(path), path.read_text(), plain()):
        made = mergeopt.merge(given, models / "out", force=True)
        assert made.lock.outputs == mergeopt.load("out").lock.outputs
        assert "merge_method: task_arithmetic" in made.recipe
    assert repr(made).splitlines()[0] == "merged model" and "21 of" not in repr(made)
    assert "<td>a, b, base</td>" in made._repr_html_() or "<td>base, a, b</td>" in made._repr_html_()
    assert [text for text in drawn(made.plot()) if text.endswith("weight")] == ["a weight", "b weight"]
    with pytest.raises(InputError, match="is not empty"):
        mergeopt.merge(path, models / "out")
    with pytest.raises(InputError, match=r"recipe:1 merge_method: unknown method 'tiess'"):
        mergeopt.merge(plain("tiess"), models / "new")
    with pytest.raises(InputError, match="unknown key 'foo'"):
        mergeopt.merge(plain() | {"foo": 1}, models / "new", strict=True)
    with pytest.raises(InputError, match="not made by"):
        mergeopt.load(models / "base")


def test_stages_and_mergekits_bits(models: Path) -> None:
    last = {"merge_method": "linear", "models": [{"model": "half"}, {"model": "a"}], "parameters": {"weight": 1}}
    chain = mergeopt.merge([plain() | {"name": "half"}, last], models / "out")
    assert chain.recipe.count("merge_method") == 2 and "half" in chain.plot().svg
    seeded = mergeopt.merge(plain("dare_linear"), models / "kit", match="mergekit", random_seed=1)
    assert seeded.folder.name == "kit" and set(read_weights(models / "kit")) == set(read_weights(models / "a"))
    with pytest.raises(InputError, match="random_seed"):
        mergeopt.merge(plain(), models / "other", random_seed=1)
    with pytest.raises(InputError, match="match 'megekit' is unknown"):
        mergeopt.merge(plain(), models / "other", match="megekit")


def test_a_search_and_its_scores(work: Path, tmp_path: Path) -> None:  # noqa: F811
    events: list[Any] = []
    found = mergeopt.search(
        to_yaml(search_data()), tmp_path / "out", overrides={"optimize.trials": 2}, listener=events.append
    )
    assert found.result.trials == 2 and events
    assert mergeopt.load(tmp_path / "out").result.rows == found.result.rows
    assert "learned merge in" in repr(found) and "2 trials (0 failed)" in repr(found)
    assert found._repr_html_().count("<tr>") == len(found.result.rows) + 1
    names = drawn(found.plot())
    assert f"{found.result.winner} (winner)" in names and any("uniform" in name for name in names)
    with pytest.raises(InputError, match="is not empty"):
        mergeopt.search(search_data(), tmp_path / "out")
    anew = mergeopt.search(recipe(0.5), tmp_path / "out", force=True, free=["weight"], evals=["evals/sort_lines.yaml"],
                           overrides={"optimize": {"method": "random", "trials": 1}})  # fmt: skip
    assert list(anew.result.rows[0].evals) == ["sort_lines"]
    bad = search_data(recipe(hole(), base_model="zoo/none"))
    with pytest.raises(InputError, match="zoo/none"):
        mergeopt.search(bad, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    scores = mergeopt.evaluate(["zoo/upper", "zoo/sort"], "evals/sort_lines.yaml", limit=10)
    assert [row.model for row in scores.rows] == ["zoo/upper", "zoo/sort"]
    assert "sort_lines" in repr(scores) and scores._repr_html_().count("<td>") == 4
    assert "sort_lines: zoo/sort" in drawn(scores.plot())


def test_names_are_no_markup(models: Path) -> None:
    (models / "a").rename(models / "<b>&\x1b")
    data = plain()
    data["models"][0]["model"] = "<b>&\x1b"
    made = mergeopt.merge(data, models / "out")
    assert "<b>" not in made._repr_html_() and "\x1b" not in repr(made) + made._repr_html_()
    assert "<b>&\\x1b weight" in drawn(made.plot())
    assert made.plot().save(models / "plot.svg").read_text() == made.plot().svg


@pytest.mark.slow
def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[1] / "scripts" / "example_notebook.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    variables = runpy.run_path(str(script))
    assert variables["again"].result.winner == variables["found"].result.winner
    said = capsys.readouterr().out
    assert "merged model" in said and "learned merge in" in said and "merge_method" in said
