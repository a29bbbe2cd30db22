"""The folder that is handed over: an ordinary model repository, with nothing in it that was not meant for others.

Built by name, never by copying everything: weights (as hard links), config, tokenizer, card, recipe, lock file and
results with public names, `.eval_results/`, lm-eval's results, SHA256SUMS. Never `search/`; the texts of items only
if asked for. It appears whole or not at all.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.checkpoint import INDEX_FILE
from mergeopt.checkpoint.hashing import hash_of
from mergeopt.checkpoint.jsonfile import read_json_object
from mergeopt.checkpoint.sidefiles import side_file_names
from mergeopt.errors import InputError, MergeoptError
from mergeopt.merge.lock import LOCK_FILE
from mergeopt.merge.refinement import SIDECAR
from mergeopt.recipe.document import read_documents
from mergeopt.recipe.write import to_yaml
from mergeopt.report.submit.checks import Subject
from mergeopt.report.submit.evidence import Evidence, json_text
from mergeopt.report.submit.hub import Benchmark, eval_results
from mergeopt.report.submit.leaderboard import average, leaderboard_points

SUMS = "SHA256SUMS"
MARK = ".mergeopt-bundle"
RECIPES = ("recipe.yaml", "mergekit_config.yml")
PUBLIC = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "*.png", "*.svg")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """What was written, by path inside it, with sizes."""

    folder: Path
    files: Mapping[str, int]


def write_bundle(
    subject: Subject,
    out: Path,
    *,
    name: str,
    evidence: Evidence | None = None,
    benchmarks: Sequence[Benchmark] = (),
    texts: bool = False,
) -> Bundle:
    """Writes the bundle, in place of an earlier one.

    Args:
        subject: The model, checked.
        out: The bundle's folder: new, empty or an earlier bundle.
        name: What the model is called.
        evidence: Results of lm-eval.
        benchmarks: Benchmarks of the Hub that the user named.
        texts: Send the texts of items too.

    Raises:
        InputError: `out` holds something else; a benchmark that was not measured.
        MergeoptError: disk full, no permission.
    """
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("is not empty and no earlier bundle", where=str(out), remedy="give another --out")
    made = _texts(subject, name, evidence, benchmarks, texts=texts)
    building = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for relative in _copied(subject):
            _copy(subject.folder / relative, building / relative, link=relative.endswith(".safetensors"))
        for relative, text in made.items():
            (building / relative).parent.mkdir(parents=True, exist_ok=True)
            (building / relative).write_text(text, encoding="utf-8")
        files = {path.relative_to(building).as_posix(): path for path in sorted(building.rglob("*")) if path.is_file()}
        sums = "".join(f"{_sha256(path)}  {relative}\n" for relative, path in files.items())
        (building / SUMS).write_text(sums, encoding="utf-8")
        (building / MARK).write_text("a bundle of `mergeopt submit`, written anew each time\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        building.replace(out)
    except OSError as error:
        raise MergeoptError(f"{out}: the bundle cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    sizes = {relative: (out / relative).stat().st_size for relative in [*files, SUMS]}
    return Bundle(out, sizes)


def _copied(subject: Subject) -> list[str]:
    """What goes as it is."""
    weights = [file.name for file in subject.checkpoint.files]
    beside = [name for name in (INDEX_FILE, SIDECAR, "README.md") if (subject.folder / name).is_file()]
    public = [path.name for pattern in PUBLIC for path in sorted(subject.folder.glob(pattern)) if path.is_file()]
    return list(dict.fromkeys([*weights, *side_file_names(subject.folder), *beside, *public]))


def _texts(
    subject: Subject, name: str, evidence: Evidence | None, benchmarks: Sequence[Benchmark], *, texts: bool
) -> dict[str, str]:
    """What is written for the bundle: path -> content."""
    made = _records(subject)
    if evidence is None:
        if benchmarks:
            raise InputError("--benchmark needs results", remedy="give --tasks or --results")
        return made
    stamp = evidence.stamp
    made |= {
        f".eval_results/{file}": to_yaml(entries)
        for file, entries in eval_results(
            evidence.scores, benchmarks, date=stamp[:10], notes=_notes(evidence.results)
        ).items()
    }
    made[f"lm_eval/results_{stamp}.json"] = json_text(evidence.public(name))
    for task, samples in evidence.public_samples(texts=texts).items():
        made[f"lm_eval/samples_{task}_{stamp}.jsonl"] = "".join(json_text(line, indent=None) for line in samples)
    points = leaderboard_points(evidence.scores)
    if points:
        rows = {task: {"raw": each.raw, "points": each.points} for task, each in points.items()}
        made["lm_eval/open_llm_leaderboard_v2.json"] = json_text({"tasks": rows, "average": average(points)})
    return made


def _records(subject: Subject) -> dict[str, str]:
    """Recipe, lock file and results under public names; the lock file's hash is that of the public recipe."""
    made, public = {}, subject.parents.public
    for file in RECIPES:
        if (subject.folder / file).is_file():
            documents = read_documents(subject.folder / file)
            made[file] = "---\n".join(to_yaml(public(document.data)) for document in documents)
    if (subject.folder / LOCK_FILE).is_file():
        lock = public(read_json_object(subject.folder / LOCK_FILE))
        if lock.get("recipe") and RECIPES[0] in made:
            lock["recipe"] = hash_of(made[RECIPES[0]].encode())
        made[LOCK_FILE] = json_text(lock)
    if (subject.folder / "result.json").is_file():
        made["result.json"] = json_text(public(read_json_object(subject.folder / "result.json")))
    return made


def _notes(results: Mapping[str, Any]) -> dict[str, str]:
    """Shots, limits and chat template, per task."""
    config, shots = results.get("config") or {}, results.get("n-shot") or {}
    more = ", with chat template" if config.get("apply_chat_template") else ""
    more += f", first {config['limit']} items only" if config.get("limit") else ""
    return {task: f", {count}-shot{more}" for task, count in shots.items()}


def _copy(source: Path, target: Path, *, link: bool) -> None:
    """A copy; of weights a hard link where the disk allows it, so that they are not written twice."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another disk, or one without links
            pass
    shutil.copyfile(source, target)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
