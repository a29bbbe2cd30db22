import pytest

from mergeopt.errors import InputError, MergeoptError, did_you_mean, placed


def test_a_mistake_is_one_line() -> None:
    error = InputError("unknown\nkey  'a'", where="r.yaml:3", remedy="did you mean 'b'?")
    assert str(error) == "r.yaml:3: unknown key 'a'; did you mean 'b'?"
    assert isinstance(error, MergeoptError)
    assert str(InputError("wrong")) == "wrong"


def test_a_mistake_stays_readable_whatever_it_names() -> None:
    text = str(InputError(f"no such tensor {'x' * 5000!r}", where="r.yaml", remedy="rename it"))
    assert text.startswith("r.yaml: no such tensor 'xxx") and text.endswith("xxx'; rename it") and len(text) < 300
    assert len(str(InputError("many words " * 5000))) <= 2001


def test_a_mistake_can_be_placed_later() -> None:
    assert str(InputError("wrong", where="models[0]").at("r.yaml")) == "r.yaml models[0]: wrong"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (None, "s.yml: wrong"),
        ("splits", "s.yml splits: wrong"),
        ("s.yml:3 optimize", "s.yml:3 optimize: wrong"),
        ("/models/a/config.json", "/models/a/config.json: wrong"),
    ],
)
def test_a_mistake_without_a_file_gets_one(where: str | None, said: str) -> None:
    with pytest.raises(InputError) as caught, placed("s.yml"):
        raise InputError("wrong", where=where)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("wieght", "did you mean 'weight'?"),
        ("Task-Arithmetic", "did you mean 'task_arithmetic'?"),
        ("xyz", "known: task_arithmetic, weight"),
    ],
)
def test_hints(given: str, said: str) -> None:
    assert did_you_mean(given, {"weight", "task_arithmetic"}) == said
    assert did_you_mean(given, set()) is None
