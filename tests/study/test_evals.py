from pathlib import Path

import pytest

from mergeopt.errors import InputError
from mergeopt.files import shipped
from mergeopt.scoring.entry import ObjectiveEntry
from mergeopt.study.evals import find_eval, with_files


def test_evals_by_path_name_and_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "mine.yaml").write_text("")
    assert find_eval("mine.yaml", tmp_path / "near") == str(tmp_path / "near" / "mine.yaml")
    for name in ("reverse", "reverse.yaml", "evals/reverse.yaml"):
        assert find_eval(name, None) == str(shipped("evals") / "reverse.yaml")
    assert find_eval("gsm8k", None) == "gsm8k"
    assert find_eval("python:a.b", None) == "python:a.b"
    with pytest.raises(InputError, match=r"no such file: near/mne\.yaml; did you mean 'mine\.yaml'"):
        find_eval("near/mne.yaml", None)
    entry = ObjectiveEntry(eval="reverse", weight=2.0)
    assert with_files([entry], None) == [entry.model_copy(update={"eval": str(shipped("evals") / "reverse.yaml")})]
