#!/usr/bin/env python
"""Writes evals/data again: the items are a function of the code alone, so nothing changes unless the tasks do."""

from pathlib import Path

from mergeopt.zoo.evaldata import write_eval_files

if __name__ == "__main__":
    write_eval_files(Path(__file__).parent.parent / "evals" / "data")
