"""The strictest licence, conflicts in words, nothing invented."""

from pathlib import Path

import pytest

from mergeopt.report.card.licence import Licence, Strictness, front_matter, licences, terms


def stating(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"---\n{text}\n---\n# Model\n")
    return folder


@pytest.mark.parametrize(
    ("licence", "strictness"),
    [
        (Licence("mit"), Strictness.PERMISSIVE),
        (Licence("gpl-3.0"), Strictness.COPYLEFT),
        (Licence("llama3.1"), Strictness.CUSTOM),
        (Licence("other", "qwen"), Strictness.CUSTOM),
        (Licence("other", "qwen-research"), Strictness.NON_COMMERCIAL),
        (Licence("cc-by-nc-sa-4.0"), Strictness.NON_COMMERCIAL),
        (Licence("cc-by-nc-nd-4.0"), Strictness.NO_DERIVATIVES),
        (Licence("unknown"), Strictness.UNKNOWN),
    ],
)
def test_how_strict(licence: Licence, strictness: Strictness) -> None:
    assert licence.strictness == strictness


@pytest.mark.parametrize(
    ("stated", "front", "said"),
    [
        (("mit", "apache-2.0"), {"license": "apache-2.0"}, "the strictest, apache-2.0"),
        (("mit", "mit"), {"license": "mit"}, None),
        (("apache-2.0", "gemma"), {"license": "gemma"}, "the strictest, gemma"),
        (("gemma", "cc-by-nc-4.0"), {"license": "cc-by-nc-4.0"}, "gemma and cc-by-nc-4.0 each bind"),
        (("llama2", "gemma"), {"license": "other", "license_name": "gemma-and-llama2"}, "gemma and llama2 each bind"),
        (("cc-by-nd-4.0", "mit"), {"license": "cc-by-nd-4.0"}, "forbids sharing derivatives"),
    ],
)
def test_the_strictest_of_two(stated: tuple[str, str], front: dict[str, str], said: str | None, tmp_path: Path) -> None:
    found = terms({f"org/{n}": stating(tmp_path / str(n), f"license: {x}") for n, x in enumerate(stated)})
    assert found.front == front
    text = "\n".join(found.lines)
    assert said in text if said else len(found.lines) == 1


def test_a_missing_licence_is_said_and_not_invented(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    found = terms({"org/a": stating(tmp_path / "a", "license: mit"), "local:bare": tmp_path / "bare"})
    assert found.front == {"license": "unknown"}
    assert found.lines[:2] == ("* `mit`: org/a", "")
    assert found.lines[-1] == "No licence is stated on disk for local:bare: find out before sharing this model."


def test_other_licences_keep_name_and_link(tmp_path: Path) -> None:
    a = stating(tmp_path / "a", "license: other\nlicense_name: my-terms\nlicense_link: LICENSE")
    assert licences(a, "org/a@abc") == (Licence("other", "my-terms", "https://huggingface.co/org/a/blob/abc/LICENSE"),)
    assert licences(a, "local:a") == (Licence("other", "my-terms"),)
    assert terms({"org/a": a}).front["license_link"].endswith("/blob/main/LICENSE")
    b = stating(tmp_path / "b", "license: [mit, 'Apache-2.0']")
    assert licences(b) == (Licence("mit"), Licence("apache-2.0"))


@pytest.mark.parametrize(
    "text",
    [
        "license: 'x]\n\"<script>'",
        "license: other\nlicense_name: '\"><img src=x>\n---\nlicense: mit'\nlicense_link: 'javascript:alert(1)'",
        "license: {a: b}",
        "a: &a [x]\nlicense: *a",
        "license: 'my licence'",
    ],
)
def test_hostile_cards_give_plain_words(text: str, tmp_path: Path) -> None:
    found = terms({"org/a": stating(tmp_path / "a", text)})
    said = "\n".join([*found.front.values(), *found.lines])
    assert not {"<", ">", '"', "javascript"} & set(said) and "javascript" not in said


def test_what_is_no_card_has_no_front_matter(tmp_path: Path) -> None:
    assert front_matter(tmp_path / "none.md") == {}
    broken = tmp_path / "README.md"
    for text in ("# no front matter", "---\n: [\n---\n", "---\n- a\n---\n", "---\nlicense: mit\n", "\x00\xff"):
        broken.write_text(text)
        assert front_matter(broken) == {}
