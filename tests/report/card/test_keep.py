"""A card that somebody edited stays; one that is as we left it is kept up to date."""

from pathlib import Path

from mergeopt.report.card.keep import is_ours, remove_card, write_card
from tests.cli.test_commands import call
from tests.study.family import recipe, search_data, write_yaml


def test_our_own_card_is_written_anew(tmp_path: Path) -> None:
    assert write_card(tmp_path, "# One") is None
    assert write_card(tmp_path, "# Two") is None
    assert (tmp_path / "README.md").read_text().startswith("# Two\n\n<!-- card by mergeopt")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_an_edited_card_is_kept(tmp_path: Path) -> None:
    write_card(tmp_path, "# One")
    card, beside = tmp_path / "README.md", tmp_path / "README.mergeopt.md"
    card.write_text(card.read_text().replace("One", "Mine"))
    edited = card.read_bytes()
    said = write_card(tmp_path, "# Two")
    assert said and "README.mergeopt.md" in said
    assert card.read_bytes() == edited and beside.read_text().startswith("# Two")
    remove_card(tmp_path)
    assert card.read_bytes() == edited and not beside.exists()
    card.write_bytes(b"\xff\xfe not text")
    assert write_card(tmp_path, "# Three") and card.read_bytes() == b"\xff\xfe not text"


def test_another_tools_line_ends_do_not_make_it_a_strangers(tmp_path: Path) -> None:
    write_card(tmp_path, "# One\ntext")
    card = tmp_path / "README.md"
    card.write_bytes(card.read_bytes().replace(b"\n", b"\r\n"))
    assert is_ours(card)
    remove_card(tmp_path)
    assert not card.exists()


def test_commands_keep_an_edited_card(work: Path, tmp_path: Path) -> None:
    merge = write_yaml(tmp_path / "r.yml", recipe(0.5))
    space = write_yaml(tmp_path / "s.yml", search_data(trials=1))
    out, again = tmp_path / "out", "--force"
    call("merge", merge, out)
    assert "README" not in call("merge", merge, out, again).stderr
    (out / "README.md").write_text("# Mine")
    for words in (("merge", merge), ("search", space)):
        said = call(*words, out, again)
        assert said.exit_code == 0 and "README.md was written or edited by hand and is kept" in said.stderr
        assert (out / "README.md").read_text() == "# Mine"
    assert "### Search" in (out / "README.mergeopt.md").read_text()
