"""A fixed sample of what `scripts/fuzz.py` tries by the hundred thousand."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, check


@pytest.mark.parametrize("name", TARGETS)
def test_accepted_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.safetensors").write_bytes(b"secret")
    accepted = [0, 0]

    @settings(max_examples=250, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.randoms(use_true_random=False).map(TARGETS[name].draw))
    def run(data: bytes) -> None:
        accepted[check(TARGETS[name], data, folder)] += 1

    run()
    assert min(accepted) > 0, accepted  # else it fuzzes one side of the door only
