#!/usr/bin/env python3
"""Tries damaged files by the hundred thousand on everything that reads strangers' files; for a night, not for CI.

    scripts/fuzz.py                        100,000 inputs for every reader
    scripts/fuzz.py --only recipe --seconds 600 --count 1000000

Every batch runs in a process of its own with a limit on its memory. Input n is drawn from seed n, which is printed when
it fails: `--only recipe --seed N --count 1` repeats it. What is drawn and what is demanded stands in tests/fuzz/, whose
test shrinks what a fixed sample finds.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MEMORY = 2 << 30  # bytes that a batch may take beyond what it begins with


def main(words: Sequence[str] | None = None) -> int:
    """Runs batches until each target has had its inputs or its time; 1 if one failed."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(TARGETS), action="append", help="these readers; all by default")
    parser.add_argument("--count", type=int, default=100_000, help="inputs for each")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time for each")
    parser.add_argument("--batch", type=int, default=2000, help="inputs per process")
    parser.add_argument("--seed", type=int, help="of the first batch; random by default")
    given = parser.parse_args(words)
    results = [fuzz(name, given) for name in given.only or TARGETS]
    return 0 if all(results) else 1


def fuzz(name: str, given: Any) -> bool:
    """One target; whether it held."""
    first = SystemRandom().getrandbits(40) if given.seed is None else given.seed
    begun, done, accepted = time.monotonic(), 0, 0
    context = multiprocessing.get_context("fork")
    while done < given.count and time.monotonic() - begun < given.seconds:
        count = min(given.batch, given.count - done)
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=batch, args=(name, count, first + done, there))
        process.start()
        there.close()
        try:
            accepted += here.recv()
        except EOFError:
            process.join()
            print(
                f"{name}: failed after {done:,} inputs, in the batch of seed {first + done} (exit {process.exitcode})"
            )
            return False
        process.join()
        done += count
    seconds = time.monotonic() - begun
    print(
        f"{name}: {done:,} inputs in {seconds:.0f} s, {accepted:,} accepted, the others refused in one line", flush=True
    )
    return True


def batch(name: str, count: int, seed: int, result: Any) -> None:
    """Tries the inputs of `count` seeds; sends how many were accepted, or says which one went wrong and how."""
    from tests.fuzz.targets import TARGETS, check

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    target, accepted = TARGETS[name], 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        folder = Path(scratch) / "inside"
        folder.mkdir()
        (Path(scratch) / "outside").mkdir()
        (Path(scratch) / "outside" / "secret.safetensors").write_bytes(b"secret")
        for number in range(seed, seed + count):
            data = target.draw(Random(number))
            try:
                accepted += check(target, data, folder)
            except BaseException:
                print(f"{name}: seed {number} draws {data[:3000]!r}", file=sys.stderr)
                raise
    result.send(accepted)


if __name__ == "__main__":
    sys.exit(main())
