import pytest
import torch

from mergeopt.errors import InputError
from mergeopt.study.workbench import Compute


def test_compute_is_read_from_words() -> None:
    assert Compute.parse("cpu", "auto", "auto") == Compute(torch.device("cpu"))
    assert Compute.parse("cpu", "bfloat16", "32") == Compute(torch.device("cpu"), torch.bfloat16, 32)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cudda", "auto", "auto"), "no device 'cudda': unknown; use cpu, cuda or auto"),
        (("cuda:97", "auto", "auto"), "no device 'cuda:97'"),
        (("cpu", "int3", "auto"), "unknown dtype 'int3'; use auto, bfloat16, float16, float32"),
        (("cpu", "auto", "0"), "batch size '0' is not a number; use auto or e.g. 32"),
        (("cpu", "auto", "many"), "batch size 'many' is not a number"),
    ],
)
def test_words_that_mean_nothing(words: tuple[str, str, str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Compute.parse(*words)
    assert said in str(caught.value) and "\n" not in str(caught.value)
