from pathlib import Path

import pytest

from mergeopt.checkpoint.jsonfile import encode_json, parse_json_object, read_json_object
from mergeopt.errors import InputError


def test_what_is_encoded_is_parsed() -> None:
    document = {"ä": [1, None], "b": {"c": 1.5}}
    assert parse_json_object(encode_json(document), "x") == document
    assert "ä" in encode_json(document).decode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "a JSON list"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' stands twice"),
        (b"{" * 100_000, "not valid JSON"),
        (b'{"a": ' + b"[" * 100_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_faults_name_the_place(text: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"^here: .*{message}"):
        parse_json_object(text, "here")


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_json_object(file)
    file.write_text('{"a": 1}')
    assert read_json_object(file) == {"a": 1}
    with file.open("r+b") as sparse:
        sparse.truncate(200_000_000)
    with pytest.raises(InputError, match="200,000,000 bytes of JSON"):
        read_json_object(file)
