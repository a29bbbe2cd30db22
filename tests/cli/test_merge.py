"""`mergeopt merge` as mergekit would."""

import json
from pathlib import Path

from tests.cli.test_commands import call, refused
from tests.study.family import recipe, write_yaml


def test_merge_as_mergekit(work: Path, tmp_path: Path) -> None:
    file = write_yaml(tmp_path / "r.yml", recipe(0.5, method="dare_linear", parameters={"density": 0.5}))
    assert "--random-seed N" in refused("merge", file, tmp_path / "out", "--match", "mergekit")
    assert "add --match mergekit" in refused("merge", file, tmp_path / "out", "--random-seed", 3)
    assert "'mergkit' is unknown" in refused("merge", file, tmp_path / "out", "--match", "mergkit")
    assert call("merge", file, tmp_path / "out", "--match", "mergekit", "--random-seed", 3).exit_code == 0
    lock = json.loads((tmp_path / "out" / "recipe.lock.json").read_text())
    assert lock["match"]["random_seed"] == 3
    assert call("reproduce", tmp_path / "out").exit_code == 0
    assert call("reproduce", tmp_path / "out", "--out", tmp_path / "again").exit_code == 0
    assert call("reproduce", tmp_path / "again").exit_code == 0
