#!/usr/bin/env python
"""How fast is a merge, beside the time its bytes need and beside mergekit?

Makes Llama-shaped models of random bfloat16 weights, merges them with each method in a process of its own, and prints
one table: wall time of the merge (hashing and lock file included, imports not), processor time, peak anonymous memory,
the floor and how many times it, and how many times longer mergekit took. The floor is the bytes read and written by the
bandwidth of reading the inputs and copying the output, measured in the same run. Inputs are in the page cache unless
--cold drops them before every run.

    scripts/bench_merge.py --size 60M --methods linear,ties --mergekit
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

BLOCK = 1 << 22
VOCABULARY = 32_000
RECIPES = {
    "linear": "merge_method: linear\nmodels:{sources}\nparameters: {{weight: 0.5}}\n",
    "slerp": "merge_method: slerp\nbase_model: {base}\nmodels: [{{model: {base}}}, {{model: {first}}}]\n"
    "parameters: {{t: 0.4}}\n",
    "task_arithmetic": "merge_method: task_arithmetic\nbase_model: {base}\nmodels:{others}\n"
    "parameters: {{weight: 0.5}}\n",
    "ties": "merge_method: ties\nbase_model: {base}\nmodels:{others}\nparameters: {{weight: 0.5, density: 0.5}}\n",
    "dare_ties": "merge_method: dare_ties\nbase_model: {base}\nmodels:{others}\n"
    "parameters: {{weight: 0.5, density: 0.5}}\n",
    "della": "merge_method: della\nbase_model: {base}\nmodels:{others}\n"
    "parameters: {{weight: 0.5, density: 0.5, epsilon: 0.1}}\n",
}


def main() -> None:
    options = arguments()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    root = Path(options.folder or tempfile.mkdtemp(prefix="bench-merge-"))
    try:
        models = [make_model(root / f"model{i}", size_of(options.size), i) for i in range(options.models)]
        report(options, root, models)
    finally:
        if not options.folder:
            shutil.rmtree(root)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="60M", help="parameters per model: 60M (default), 1.2B, …")
    parser.add_argument("--models", type=int, default=3, help="models to merge; the first is the base (default 3)")
    parser.add_argument("--methods", default=",".join(RECIPES), help="which, all by default: %(default)s")
    parser.add_argument("--mergekit", action="store_true", help="run mergekit too, where it is installed")
    parser.add_argument("--repeat", type=int, default=1, help="runs per tool, in turn; medians are printed")
    parser.add_argument("--cold", action="store_true", help="drop the inputs from the page cache before every run")
    parser.add_argument("--folder", help="keep models here, and use those already there")
    parser.add_argument("--child", nargs=3, metavar=("TOOL", "RECIPE", "OUT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def size_of(text: str) -> int:
    units = {"K": 1e3, "M": 1e6, "B": 1e9}
    return int(float(text[:-1]) * units[text[-1]]) if text[-1] in units else int(text)


def tensors_of(size: int) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...]]]]:
    """Config and tensors of the smallest such Llama with at least `size` parameters (tied, layers = hidden/128)."""
    hidden = 128
    while VOCABULARY * hidden + hidden // 128 * 14.5 * hidden**2 < size:
        hidden += 128
    layers, inner, keys = hidden // 128, 4 * hidden, hidden // 4
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "head_dim": 32,
        "num_hidden_layers": layers, "intermediate_size": inner, "num_attention_heads": hidden // 32,
        "num_key_value_heads": keys // 32, "vocab_size": VOCABULARY, "tie_word_embeddings": True, "dtype": "bfloat16",
    }  # fmt: skip
    tensors: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (VOCABULARY, hidden))]
    for layer in range(layers):
        place = f"model.layers.{layer}"
        tensors += [(f"{place}.self_attn.{x}_proj.weight", (hidden, hidden)) for x in "qo"]
        tensors += [(f"{place}.self_attn.{x}_proj.weight", (keys, hidden)) for x in "kv"]
        tensors += [(f"{place}.mlp.{x}_proj.weight", (inner, hidden)) for x in ("gate", "up")]
        tensors += [(f"{place}.mlp.down_proj.weight", (hidden, inner))]
        tensors += [(f"{place}.{x}_layernorm.weight", (hidden,)) for x in ("input", "post_attention")]
    return config, [*tensors, ("model.norm.weight", (hidden,))]


def make_model(folder: Path, size: int, number: int) -> Path:
    """Writes a model: the same random base for all, plus a tenth of noise of its own; streamed, never built."""
    import torch

    from mergeopt.checkpoint.writer import CheckpointWriter, OutputTensor

    if (folder / "config.json").is_file():
        return folder
    config, tensors = tensors_of(size)
    random = torch.Generator().manual_seed(number)
    noise = 0.002 * torch.randn(BLOCK, generator=random)
    base = 0.02 * torch.randn(BLOCK, generator=torch.Generator().manual_seed(99))
    with CheckpointWriter(folder, [OutputTensor(name, shape, "bfloat16") for name, shape in tensors]) as writer:
        for count, (name, shape) in enumerate(tensors):
            numel = shape[0] * (shape[1] if len(shape) > 1 else 1)
            for start in range(0, numel, BLOCK):
                block = base.roll(count * 1009 + start) + noise.roll(count * 7001 + start // 3)
                writer.write(name, start, block[: min(BLOCK, numel - start)].bfloat16())
        writer.commit()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def report(options: argparse.Namespace, root: Path, models: list[Path]) -> None:
    files = {model: sorted(model.glob("*.safetensors")) for model in models}
    sizes = {model: sum(file.stat().st_size for file in files[model]) for model in models}
    state = "cold" if options.cold else "warm"
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{len(models)} models, {sizes[models[0]] / 1e9:.2f} GB each, {os.cpu_count()} cores, {state} page cache")
    print(f"load of the machine before: {load}; medians of {options.repeat}, largest memory")
    print("| method | tool | merge s | cpu s | anon MB | floor s | × floor | mergekit ÷ ours |\n" + "|---" * 8 + "|")
    for method in options.methods.split(","):
        read = models[:2] if method == "slerp" else models
        recipe = root / f"{method}.yaml"
        recipe.write_text(recipe_text(method, models))
        prepare_cache([file for model in read for file in files[model]], options.cold)
        floor = seconds_to_read([file for model in read for file in files[model]])
        floor += seconds_to_write(root / "floor", sizes[models[0]])
        tools = ("mergeopt", "mergekit") if options.mergekit else ("mergeopt",)
        runs: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools}
        for _ in range(options.repeat):  # in turn, so that a slow minute of the machine hits both
            for tool in tools:
                prepare_cache([file for model in read for file in files[model]], options.cold)
                runs[tool].append(run(tool, recipe, root / "out"))
        seconds = {tool: median(row["seconds"] for row in rows) for tool, rows in runs.items()}
        for tool, rows in runs.items():
            cpu, peak = median(row["cpu"] for row in rows), max(row["peak"] for row in rows) / 1e6
            ratio = f"{seconds['mergekit'] / seconds[tool]:.1f}" if options.mergekit else ""
            line = f"| {method} | {tool} | {seconds[tool]:.2f} | {cpu:.2f} | {peak:.0f} | {floor:.2f} "
            print(f"{line}| {seconds[tool] / floor:.1f} | {ratio} |", flush=True)


def recipe_text(method: str, models: list[Path]) -> str:
    listed = [f"\n  - {{model: {model}}}" for model in models]
    text = RECIPES[method].format(base=models[0], first=models[1], sources="".join(listed), others="".join(listed[1:]))
    return text + "dtype: bfloat16\n"


def prepare_cache(files: list[Path], cold: bool) -> None:
    """The disk idle, so that no run pays for what another wrote; files out of the page cache, or into it."""
    os.sync()
    if not cold:
        seconds_to_read(files)
        return
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_to_read(files: list[Path]) -> float:
    begin = time.perf_counter()
    buffer = memoryview(bytearray(BLOCK))
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - begin


def seconds_to_write(file: Path, size: int) -> float:
    """To write `size` bytes as `cp` does: into the page cache, as far as the system lets it."""
    begin = time.perf_counter()
    block = memoryview(bytearray(os.urandom(BLOCK)))
    with file.open("wb", buffering=0) as stream:
        for start in range(0, size, BLOCK):
            stream.write(block[: min(BLOCK, size - start)])
    seconds = time.perf_counter() - begin
    file.unlink()
    return seconds


def run(tool: str, recipe: Path, out: Path) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-W", "ignore", __file__, "--child", tool, str(recipe), str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    shutil.rmtree(out)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(tool: str, recipe: str, out: str) -> dict[str, float]:
    """One merge in this process: wall and processor seconds without imports, peak bytes of anonymous memory."""
    steps = mergeopt_steps if tool == "mergeopt" else mergekit_steps
    merging = steps(Path(recipe), Path(out))
    next(merging)
    with AnonymousMemory() as memory:
        begin, cpu = time.perf_counter(), time.process_time()
        next(merging, None)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "peak": memory.peak}


class AnonymousMemory:
    """Watches this process's memory that no file stands behind, every 20 ms: the kernel keeps no peak of it."""

    def __enter__(self) -> "AnonymousMemory":
        self.peak, self._done = 0, Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024
            self.peak = max(self.peak, now)
            if self._done.wait(0.02):
                return


def mergeopt_steps(recipe: Path, out: Path) -> Iterator[None]:
    from mergeopt.merge.folder import merge_to_folder, prepare
    from mergeopt.merge.sources import open_models
    from mergeopt.methods import SCHEMAS
    from mergeopt.recipe.document import read_document
    from mergeopt.recipe.read import read_recipe

    yield
    read = read_recipe(read_document(recipe), SCHEMAS).recipe
    merge_to_folder(prepare(read, open_models(read.models, None)), out)


def mergekit_steps(recipe: Path, out: Path) -> Iterator[None]:
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    yield
    options = MergeOptions(write_model_card=False, copy_tokenizer=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text())), str(out), options)


if __name__ == "__main__":
    main()
