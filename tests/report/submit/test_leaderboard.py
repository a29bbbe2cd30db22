"""The closed leaderboard's arithmetic: on rows that it published, and on raw scores worked out by hand."""

import pytest

from mergeopt.report.submit.leaderboard import CHOICES, TASKS, Points, average, leaderboard_points, normalised

# From the model cards: IFEval, BBH, MATH Lvl 5, GPQA, MuSR, MMLU-PRO, average.
PUBLISHED = {
    "tiiuae/falcon-mamba-7b": (33.36, 19.88, 3.63, 8.05, 10.86, 14.47, 15.04),
    "arcee-ai/Arcee-Spark": (56.21, 37.14, 12.31, 7.61, 8.60, 31.36, 25.54),
    "SeaLLMs/SeaLLMs-v3-7B-Chat": (43.77, 33.80, 15.11, 6.49, 10.47, 32.16, 23.63),
    "dfurman/Llama-3-8B-Orpo-v0.1": (30.00, 13.77, 3.78, 1.57, 2.73, 14.23, 11.01),
    "Orenguteng/Llama-3.1-8B-Lexi-Uncensored-V2": (77.92, 29.69, 16.92, 4.36, 7.77, 30.90, 27.93),
    "vicgalle/Configurable-Yi-1.5-9B-Chat": (43.23, 35.33, 6.12, 12.42, 12.02, 33.50, 23.77),
    "Kukedlc/NeuralLLaMa-3-8b-DT-v0.1": (43.71, 28.01, 7.25, 7.05, 9.69, 31.02, 21.12),
    "vicgalle/CarbonBeagle-11B": (54.15, 33.06, 5.51, 6.94, 9.19, 25.29, 22.36),
    "vicgalle/Configurable-Hermes-2-Pro-Llama-3-8B": (57.63, 30.51, 5.97, 6.26, 10.06, 23.31, 22.29),
}
GPQA_ITEMS, MATH_ITEMS = 1192, 1324

# Raw results of EleutherAI/pythia-1b on the leaderboard, 27 January 2025.
PYTHIA = {
    "leaderboard_ifeval": {
        "prompt_level_strict_acc,none": 0.16820702402957485,
        "inst_level_strict_acc,none": 0.2733812949640288,
        "prompt_level_loose_acc,none": 0.1756007393715342,
    },
    "leaderboard_math_hard": {"exact_match,none": 4 / MATH_ITEMS},
    "leaderboard_gpqa": {"acc_norm,none": 306 / GPQA_ITEMS},
    "leaderboard_mmlu_pro": {"acc,none": 0.11361369680851063},
    "leaderboard_musr_murder_mysteries": {"acc_norm,none": 0.492},
    "leaderboard_musr_object_placements": {"acc_norm,none": 0.265625},
    "leaderboard_musr_team_allocation": {"acc_norm,none": 0.308},
}


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_published_rows(row: tuple[float, ...]) -> None:
    *tasks, claimed = row
    points = dict(zip(TASKS, (Points(0.0, value) for value in tasks), strict=True))
    found = average(points)
    assert found is not None and abs(found - claimed) < 0.011
    # the points of GPQA and MATH are those of a whole number of right answers among all items: of no subtask
    right = round((tasks[3] / 100 * 0.75 + 0.25) * GPQA_ITEMS)
    assert abs(normalised(right / GPQA_ITEMS, 1 / 4) - tasks[3]) < 0.0051
    assert abs(normalised(round(tasks[2] / 100 * MATH_ITEMS) / MATH_ITEMS, 0.0) - tasks[2]) < 0.0051


def test_published_raw_scores_worked_out_by_hand() -> None:
    points = leaderboard_points(PYTHIA)
    assert points["IFEval"].points == pytest.approx((16.8207 + 27.3381) / 2, abs=1e-3)
    assert points["MATH Lvl 5"].points == pytest.approx(0.3021, abs=1e-3)
    assert points["GPQA"].points == pytest.approx((25.6711 - 25) / 0.75, abs=1e-3)
    assert points["MMLU-PRO"].points == pytest.approx((11.3614 - 10) / 0.9, abs=1e-3)
    # two suspects guessed below 1/2: 0; (.265625 - .2) / .8 = 8.2031; three ways guessed below 1/3: 0
    assert points["MUSR"] == Points(pytest.approx((0.492 + 0.265625 + 0.308) / 3), pytest.approx(8.203125 / 3))
    assert list(points) == [name for name in TASKS if name != "BBH"]
    assert average(points) is None


def test_every_subtask_of_bbh_counts() -> None:
    bbh = CHOICES["leaderboard_bbh"]
    names = [name for names in bbh.values() for name in names]
    assert len(names) == len(set(names)) == 24
    perfect = {f"leaderboard_bbh_{name}": {"acc_norm,none": 1.0} for name in names}
    guessed = {f"leaderboard_bbh_{n}": {"acc_norm,none": 1 / k} for k, names in bbh.items() for n in names}
    assert leaderboard_points(perfect)["BBH"] == Points(1.0, 100.0)
    assert leaderboard_points(guessed)["BBH"].points == pytest.approx(0)
    half = guessed | {"leaderboard_bbh_snarks": {"acc_norm,none": 0.75}}
    assert leaderboard_points(half)["BBH"].points == pytest.approx(50 / 24)
    del half["leaderboard_bbh_snarks"]
    assert "BBH" not in leaderboard_points(half)
    assert leaderboard_points({"leaderboard_gpqa": {"acc_norm,none": "N/A"}}) == {}  # type: ignore[dict-item]


def test_the_names_are_those_of_lm_eval() -> None:
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("lm_eval")
    assert spec and spec.submodule_search_locations
    tasks = Path(spec.submodule_search_locations[0]) / "tasks" / "leaderboard"
    text = "\n".join(path.read_text() for path in tasks.rglob("*.yaml"))
    for group, counts in CHOICES.items():
        assert all(f"{group}_{name}" in text for names in counts.values() for name in names)
    assert all(f"group: leaderboard_{name}\n" in text for name in ("gpqa", "math_hard", "bbh", "musr"))
