"""A diagnosis on paper: 80 columns, whatever the names."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mergeopt.diagnose.diagnosis import diagnose
from mergeopt.diagnose.subjects import subjects
from mergeopt.recipe.recipe import ModelRef
from mergeopt.report.diagnosis import diagnosis_text
from tests.conftest import llama_weights, write_model

NAMES = ("[red]", "a-very-long-name-of-a-fine-tune-for-mathematics-v2", "b")


@pytest.fixture
def text(tmp_path: Path) -> str:
    for seed, name in enumerate(("base", *NAMES)):
        noise = llama_weights(3, seed=seed)
        weights = {key: t + 0.02 * seed * noise[key] for key, t in llama_weights(3).items()}
        write_model(tmp_path / name, weights, rms_norm_eps=1e-5 if name != "b" else 1e-6)
    found = [ModelRef(str(tmp_path / name)) for name in NAMES]
    stream = StringIO()
    console = Console(file=stream, width=80)
    for piece in diagnosis_text(diagnose(subjects(found, [ModelRef(str(tmp_path / "base"))], None))):
        console.print(piece, highlight=False)
    return stream.getvalue()


def test_it_fits_and_names_are_names(text: str) -> None:
    assert max(map(len, text.splitlines())) <= 80
    assert " [red] " in text and "[red]–b" in text


def test_it_says_everything(text: str) -> None:
    for word in ("|τ|/|W₀|", "attention 0", "mlp 2", "norm", "embed", "verdict", "beside the weights", "what to do"):
        assert word in text
    flat = " ".join(text.split())
    assert "b: config rms_norm_eps is 1e-06, not 1e-05: norms compute something else" in flat
    assert "norm-scaled weights: [red] 0.54" in flat
