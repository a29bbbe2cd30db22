"""The card of a plain merge, by name and by what leaks out of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from mergeopt.merge.stages import prepare_stages
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import read_documents
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.stages import read_stages
from mergeopt.report.card.merged import merge_card
from mergeopt.report.card.naming import Names, card_name


def card_of(*documents: Any, name: str = "out") -> str:
    path = Path("recipe.yml")
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return merge_card(prepare_stages(read_stages(list(read_documents(path)), SCHEMAS)), name)


def linear(*models: str, **more: Any) -> dict[str, Any]:
    weighted = [{"model": model, "parameters": {"weight": 0.5}} for model in models]
    return {"merge_method": "linear", "models": weighted, "dtype": "float32", **more}


def cached(folder: Path, name: str, source: str, licence: str) -> Path:
    """A model as it lies in the Hub's cache."""
    snapshot = folder / f"models--{name.replace('/', '--')}" / "snapshots" / "0123abcd"
    shutil.copytree(source, snapshot)
    (snapshot / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    return snapshot


def test_front_matter_headings_and_configuration(models: Path) -> None:
    a, b = cached(models / "hub", "org/a", "a", "mit"), cached(models / "hub", "org/b", "b", "apache-2.0")
    text = card_of(linear(str(a), str(b)))
    data = ModelCard(text).data.to_dict()
    assert data == {
        "base_model": ["org/a", "org/b"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "mergekit", "mergeopt"],
        "license": "apache-2.0",
    }
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# out", "## Merge Details", "### Merge Method", "### Models Merged", "### Configuration", "### License",
    ]  # fmt: skip
    written = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert [model["model"] for model in written["models"]] == ["org/a@0123abcd", "org/b@0123abcd"]
    assert "mergeopt merge recipe.yaml OUT" in text and str(models) not in text


HOSTILE: dict[str, Callable[[str], str]] = {
    "C:\\Users\\me\\secret\\model": lambda name: "local:model",
    "```\n# owned": lambda name: "local:``` # owned",
    "a: [b, *c]\n---\nlicense: mit": lambda name: f"local:{name}",
    "<script>alert(1)</script>": lambda name: "local:script>",
    "| a | `b` **c**": lambda name: f"local:{name}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_mean_something_elsewhere(name: str, models: Path) -> None:
    place = models / "secret" / name.replace("/", "_")
    shutil.copytree("a", place)
    text = card_of(linear(str(place), "b"), name=name)
    assert "secret" not in text.split("# ", 1)[0] and str(models) not in text
    assert "<script" not in text.split("```yaml")[0]
    card = ModelCard(text)
    assert card.data.license == "unknown" and card.data.tags == ["merge", "mergekit", "mergeopt"]
    fence = next(line for line in text.splitlines() if line.startswith("```")).removesuffix("yaml")
    written = yaml.safe_load(text.split(f"{fence}yaml\n")[1].split(f"\n{fence}\n")[0])
    assert len(written["models"]) == 2 and written["models"][0]["model"].startswith("local:")


def test_the_stages_of_a_chain(models: Path) -> None:
    first = linear("a", "b") | {"name": "deep/er/half"}
    second = {"merge_method": "linear", "models": [{"model": "deep/er/half"}, {"model": "base"}]}
    second |= {"parameters": {"weight": 0.5}, "dtype": "float32"}
    text = card_of(first, second)
    assert "in 2 stages" in text and "deep/er" not in text
    documents = list(yaml.safe_load_all(text.split("```yaml\n")[1].split("```")[0]))
    assert documents[0]["name"] == documents[1]["models"][0]["model"] == "half"
    assert {"* local:a", "* local:b", "* local:base"} <= set(text.splitlines())


def test_public_names(tmp_path: Path) -> None:
    assert card_name(ModelRef("C:\\me\\x\\"), tmp_path) == "local:x"
    names = Names({"zoo/a": "local:a", "zoo/a.b": "local:a.b"}, {}, (), {})
    assert names.within("zoo/a.weight[mlp].0") == "local:a.weight[mlp].0"
    assert names.within("zoo/a.b.weight") == "local:a.b.weight"
    assert names.within("lambda") == "lambda"
    assert names.within("/home/me/other.weight") == "other.weight"
