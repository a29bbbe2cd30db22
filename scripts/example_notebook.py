#!/usr/bin/env python
"""mergeopt from Python, cell by cell: open it as a notebook (VS Code, Jupytext), or run it as a script.

It trains a family of tiny models first, so it needs no download and takes well under a minute.
"""

# %% A family to work on: a base and two specialists, a few thousand parameters each
import shutil
import sys
import tempfile
from pathlib import Path

import mergeopt
from mergeopt.zoo.family import make_family
from mergeopt.zoo.spec import FamilySpec, Specialist, Stage

work = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mergeopt-example-"))
tasks = ("reverse", "sort")
family = FamilySpec(
    architecture="llama",
    hidden=32,
    layers=2,
    heads=2,
    intermediate=64,
    mixture=tasks,
    base=Stage(steps=40, learning_rate=4e-3, replay=1.0),
    specialists=tuple(Specialist(task, Stage(steps=90, learning_rate=4e-3, replay=0.1)) for task in tasks),
    multitask=Stage(steps=1, learning_rate=1e-3, replay=0.3),
    batch=32,
)
make_family(family, work / "zoo")
base, reverse, sort = (str(work / "zoo" / name) for name in ("base", *tasks))

# %% Merge: a recipe is a path, YAML text or a dict
recipe = {
    "merge_method": "ties",
    "base_model": base,
    "models": [
        {"model": reverse, "parameters": {"weight": 0.5, "density": 0.6}},
        {"model": sort, "parameters": {"weight": [0.2, 0.8], "density": 0.6}},  # from the first layer to the last
    ],
    "dtype": "float32",
}
merged = mergeopt.merge(recipe, work / "ties", force=True)
print(merged)

# %% Its coefficients, source by source
merged.plot()

# %% Score models side by side; the first one is what the others are compared with
scores = mergeopt.evaluate([work / "ties", reverse, sort], ["reverse", "sort"], limit=40)
print(scores)

# %% Replace numbers by holes and let the evals find them
space = {
    "recipe": {
        "merge_method": "task_arithmetic",
        "base_model": base,
        "models": [
            {"model": reverse, "parameters": {"weight": {"range": [0.0, 1.5]}}},
            {"model": sort, "parameters": {"weight": {"range": [0.0, 1.5]}}},
        ],
        "dtype": "float32",
    },
    "objective": [{"eval": "reverse", "limit": 120}, {"eval": "sort", "limit": 120}],
    "optimize": {"method": "auto", "trials": 4, "seed": 0},
    "learn": {"steps": 10},
}
found = mergeopt.search(space, work / "learned", force=True)
print(found)

# %% The winner against every parent and fixed recipe, on items that nothing was fitted to
found.plot()

# %% Another day: open the folder again
again = mergeopt.load(work / "learned")
print(again.recipe)

# %% Done
if len(sys.argv) < 2:
    shutil.rmtree(work)
