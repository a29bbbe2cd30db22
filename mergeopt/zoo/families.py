"""Further families, for judging searches on models that nobody tuned them for.

Shapes, tasks and stages were fixed before anything was tuned on them: uneven specialists, three architectures, one
family of eight. `scripts/bench_search.py` trains them with seeds 0 to 4.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mergeopt.zoo.spec import DEMO, FamilySpec, Specialist, Stage

# Eight specialists of one base: every delta disturbs seven others.
EIGHT = FamilySpec(
    architecture="llama",
    hidden=128,
    layers=4,
    heads=4,
    intermediate=256,
    mixture=("reverse", "sort", "shift", "upper", "dedup", "rotate", "ends", "count"),
    base=Stage(steps=240, learning_rate=4e-3, replay=1.0),
    specialists=(
        Specialist("reverse", Stage(steps=140, learning_rate=2e-3, replay=0.35)),
        Specialist("sort", Stage(steps=160, learning_rate=1.5e-3, replay=0.40)),
        Specialist("shift", Stage(steps=80, learning_rate=1e-3, replay=0.30)),
        Specialist("upper", Stage(steps=60, learning_rate=2e-3, replay=0.45)),
        Specialist("dedup", Stage(steps=180, learning_rate=2e-3, replay=0.35)),
        Specialist("rotate", Stage(steps=120, learning_rate=2e-3, replay=0.30)),
        Specialist("ends", Stage(steps=80, learning_rate=1.5e-3, replay=0.40)),
        Specialist("count", Stage(steps=160, learning_rate=2e-3, replay=0.35)),
    ),
    multitask=Stage(steps=500, learning_rate=2e-3, replay=0.35),
)

# A tied head and biases, five specialists, one of them barely trained and one far from the base.
QWEN = FamilySpec(
    architecture="qwen2",
    hidden=96,
    layers=6,
    heads=4,
    intermediate=256,
    mixture=("reverse", "sort", "shift", "upper", "rotate", "count"),
    base=Stage(steps=220, learning_rate=4e-3, replay=1.0),
    specialists=(
        Specialist("reverse", Stage(steps=180, learning_rate=2e-3, replay=0.30)),
        Specialist("sort", Stage(steps=200, learning_rate=3e-3, replay=0.40)),
        Specialist("rotate", Stage(steps=60, learning_rate=1e-3, replay=0.30)),
        Specialist("count", Stage(steps=160, learning_rate=2e-3, replay=0.35)),
        Specialist("dedup", Stage(steps=220, learning_rate=2.5e-3, replay=0.30)),
    ),
    multitask=Stage(steps=500, learning_rate=2e-3, replay=0.35),
)

# Fused query-key-value weights, layer norms with biases, parallel residuals; two tasks the base has never seen.
NEOX = FamilySpec(
    architecture="gpt_neox",
    hidden=128,
    layers=4,
    heads=4,
    intermediate=512,
    mixture=("reverse", "sort", "shift", "upper", "ends"),
    base=Stage(steps=300, learning_rate=3e-3, replay=1.0),
    specialists=(
        Specialist("reverse", Stage(steps=300, learning_rate=2e-3, replay=0.35)),
        Specialist("sort", Stage(steps=250, learning_rate=1.5e-3, replay=0.35)),
        Specialist("rotate", Stage(steps=200, learning_rate=1.5e-3, replay=0.40)),
        Specialist("dedup", Stage(steps=300, learning_rate=2e-3, replay=0.30)),
    ),
    multitask=Stage(steps=600, learning_rate=2e-3, replay=0.35),
)

FAMILIES: Mapping[str, FamilySpec] = MappingProxyType({"demo": DEMO, "eight": EIGHT, "qwen": QWEN, "neox": NEOX})
