from collections.abc import Iterator

import pytest
import torch

from mergeopt.zoo.spec import Architecture, FamilySpec, Specialist, Stage


def miniature(architecture: Architecture = "llama", *, seed: int = 0) -> FamilySpec:
    """A family that trains in a tenth of a second and knows nothing."""
    stage = Stage(steps=3, learning_rate=1e-3, replay=0.3)
    return FamilySpec(
        architecture=architecture,
        hidden=32,
        layers=2,
        heads=2,
        intermediate=64,
        mixture=("reverse", "sort"),
        base=Stage(steps=3, learning_rate=1e-3, replay=1.0),
        specialists=(Specialist("reverse", stage),),
        multitask=stage,
        batch=8,
        seed=seed,
    )


@pytest.fixture
def spec() -> FamilySpec:
    return miniature()


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Models this small only wait for each other's threads, for minutes where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
