import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mergeopt.checkpoint.header import encode_header, read_header
from mergeopt.errors import InputError


def safetensors_file(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_safetensors_writes(tmp_path: Path) -> None:
    names = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    names += ["float8_e4m3fn", "float8_e5m2"]
    tensors = {name: torch.zeros(2, 3).to(getattr(torch, name)) for name in names}
    tensors |= {"scalar": torch.tensor(1.0), "empty": torch.empty(0, 4)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})

    stored = read_header(tmp_path / "a.safetensors")

    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stored[name].shape == tuple(tensor.shape)
        assert stored[name].dtype == str(tensor.dtype).removeprefix("torch.")
        assert stored[name].nbytes == tensor.nbytes
    assert [t.offset for t in stored.values()] == sorted(t.offset for t in stored.values())


def test_encoded_header_is_read_by_safetensors_and_by_us(tmp_path: Path) -> None:
    wanted = [("b", "float32", (2, 3)), ("ä.weight", "bfloat16", (5,)), ("scalar", "int64", ())]
    head, offsets = encode_header(wanted, {"made": "here"})
    assert len(head) % 8 == 0
    file = tmp_path / "a.safetensors"
    file.write_bytes(head + bytes(24 + 10 + 8))

    stored = read_header(file)

    assert [(t.name, t.dtype, t.shape) for t in stored.values()] == wanted
    assert tuple(t.offset for t in stored.values()) == offsets
    assert load_file(file)["ä.weight"].dtype == torch.bfloat16


def test_encoding_an_unknown_dtype_names_it() -> None:
    with pytest.raises(ValueError, match="complex128"):
        encode_header([("a", "complex128", (1,))])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(dtype="F31")}, "'a': unknown dtype 'F31'"),
        ({"a": entry(dtype=["F32"])}, "unknown dtype"),
        ({"a": entry(shape=[-2])}, "non-negative"),
        ({"a": entry(shape=[2.0])}, "non-negative"),
        ({"a": entry(shape=[True, 2])}, "non-negative"),
        ({"a": entry(shape=[2**70, 0], offsets=[0, 0])}, "non-negative"),
        ({"a": entry(shape=2)}, "non-negative"),
        ({"a": entry(shape=[1] * 100)}, "non-negative"),
        ({"a": entry(offsets=[8, 0])}, "data_offsets"),
        ({"a": entry(offsets=[0])}, "data_offsets"),
        ({"a": entry(offsets=None)}, "data_offsets"),
        ({"a": entry(offsets=[0, 4])}, "takes 8 bytes, but its offsets span 4"),
        ({"a": entry(offsets=[4, 12])}, "leaves a gap"),
        ({"a": entry(), "b": entry(offsets=[4, 12])}, "'b': overlaps"),
        ({"a": entry(), "b": entry(offsets=[8, 16])}, "truncated"),
        ({}, "8 bytes stand after the last tensor"),
        ({"a": [1]}, "not an object"),
        ({"\ud800": entry()}, "printable"),
        ([1], "JSON list"),
        (b"{nope", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a":{},"a":{}}', "'a' stands twice"),
    ],
)
def test_a_contradictory_header_is_refused(tmp_path: Path, header: Any, message: str) -> None:
    file = safetensors_file(tmp_path / "a.safetensors", header, bytes(8))
    with pytest.raises(InputError, match=message) as caught:
        read_header(file)
    assert str(file) in str(caught.value)


def test_a_truncated_file_says_what_it_has_and_needs(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(1000)}, file)
    size = file.stat().st_size
    os.truncate(file, size - 100)
    with pytest.raises(
        InputError, match=rf"truncated: the header promises {size:,} bytes, the file has {size - 100:,}"
    ):
        read_header(file)
    os.truncate(file, 20)
    with pytest.raises(InputError, match="truncated: its header alone"):
        read_header(file)
    os.truncate(file, 3)
    with pytest.raises(InputError, match="3 bytes is too short"):
        read_header(file)


def test_an_absurd_header_length_is_not_allocated(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="claims a header of"):
        read_header(file)


@pytest.mark.parametrize("path", ["missing.safetensors", "."])
def test_what_is_no_file_is_an_input_error(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_header(tmp_path / path)


FUZZ = settings(
    derandomize=True,
    database=None,
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
VALID = json.dumps({"__metadata__": {"format": "pt"}, "a": entry(), "b": entry("BF16", (2, 2), (8, 16))}).encode()


def survives(file: Path) -> None:
    """Either a header whose tensors lie inside the file, or an InputError of one line."""
    try:
        stored = read_header(file)
    except InputError as fault:
        assert "\n" not in str(fault)
    else:
        assert all(8 < t.offset <= t.offset + t.nbytes <= file.stat().st_size for t in stored.values())


@FUZZ
@given(data=st.binary(max_size=200))
def test_random_bytes_never_crash(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    survives(tmp_path / "a")


@FUZZ
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.sampled_from(list(b'{}[],:"0129-eE.\\ \xffau'))), max_size=4
    )
)
def test_mutated_headers_never_crash(tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    text = bytearray(VALID)
    for position, byte in edits:
        text[position] = byte
    survives(safetensors_file(tmp_path / "a", bytes(text), bytes(16)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@FUZZ
@given(dtype=json_values | st.just("F32"), shape=json_values | st.just([2]), offsets=json_values | st.just([0, 8]))
def test_any_json_as_an_entry_never_crashes(tmp_path: Path, dtype: Any, shape: Any, offsets: Any) -> None:
    survives(safetensors_file(tmp_path / "a", {"a": entry(dtype, shape, offsets)}, bytes(8)))
