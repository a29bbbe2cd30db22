#!/usr/bin/env python
"""Does the learned merge gain anything on families of other seeds?

Trains the demo family for each seed (or takes what is there), runs the demo's search on it, and prints the gain over
the best of parents and fixed recipes on fresh items: per seed with its paired interval, and the mean with the interval
of its items (these families) and of its seeds (any family). A search that finds nothing better returns the best known
recipe: its gain is 0, not left out.

    scripts/bench_seeds.py --seeds 0,1,2,3,4 --folder runs/seeds
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from mergeopt.cli.common import quiet_libraries
from mergeopt.files import find_file
from mergeopt.recipe.document import parse_document
from mergeopt.report.publish import publish
from mergeopt.scoring.statistics import paired_difference
from mergeopt.study.events import nobody
from mergeopt.study.job import layers_near, open_record, prepare_search
from mergeopt.study.result import Result
from mergeopt.study.search import run_search
from mergeopt.study.searchfile import read_search_file
from mergeopt.study.workbench import Compute
from mergeopt.zoo.family import make_family
from mergeopt.zoo.spec import DEMO


def search(zoo: Path, space: str, out: Path, overrides: list[str]) -> Result:
    """The demo's search on another zoo."""
    path = find_file(space, None, "search_spaces")
    document = parse_document(path.read_text().replace("runs/zoo", str(zoo)), str(path))
    file = read_search_file(document, layers_of=layers_near(path.parent), overrides=overrides)
    job = prepare_search(file, path.parent)
    shutil.rmtree(out, ignore_errors=True)
    with open_record(job, out / "search", resume=False) as record:
        found = run_search(job, record, Compute.parse("auto", "auto", "auto"), nobody)
        publish(found, job, out, nobody)
    return found.result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--space", default="demo")
    parser.add_argument("--folder", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--set", action="append", default=[], help="override a key of the search file")
    options = parser.parse_args()
    quiet_libraries()
    gains, errors = [], []
    for seed in map(int, options.seeds.split(",")):
        zoo = options.folder / f"zoo{seed}"
        make_family(replace(DEMO, seed=seed), zoo)
        result = search(zoo, options.space, options.folder / f"{options.space}{seed}", options.set)
        gain = result.gain if result.learned else None
        gains.append(gain.mean if gain else 0.0)
        errors.append(gain.stderr if gain else 0.0)
        text = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" if gain else "no gain"
        row = result.row(result.winner)
        print(f"seed {seed}: {text} over {result.rival}; objective {row.objective:.3f}", flush=True)
    mean = paired_difference(np.array(gains), np.zeros(len(gains)))
    half = 1.96 * float(np.sqrt(np.sum(np.square(errors)))) / len(errors)
    low, high = mean.mean - half, mean.mean + half
    print(f"mean over these {len(gains)} seeds: {mean.mean:+.3f} [{low:+.3f}, {high:+.3f}] (items)")
    print(f"for families of any seed: {mean.mean:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}] (t over seeds)")


if __name__ == "__main__":
    main()
