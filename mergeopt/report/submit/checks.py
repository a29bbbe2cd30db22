"""What would make a submission fail, found here first: one line per check, with the way out.

"fail" stops the submission, "warn" does not. Nothing is changed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.hashing import Progress, hash_of
from mergeopt.checkpoint.sidefiles import side_file_names
from mergeopt.errors import InputError, MergeoptError
from mergeopt.files import size_text
from mergeopt.merge.lock import LOCK_FILE, Lock
from mergeopt.merge.templates import chat_template
from mergeopt.report.card.licence import front_matter, licences
from mergeopt.report.submit.parents import Parents
from mergeopt.report.submit.weights import misfits, read_through

State = Literal["ok", "warn", "fail"]

LARGEST_FILE = 50 * 10**9  # bytes, the Hub's limit
USUAL = ("bfloat16", "float16", "float32")
STRANGERS = ("*.py", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", ".env*", "*token*.txt", "*.key")
CARD_FIELDS = ("base_model", "library_name", "pipeline_tag", "tags")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    what: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Subject:
    """The model to submit, opened by its headers; its lock file and what is known of its parents, where there are."""

    folder: Path
    checkpoint: Checkpoint
    lock: Lock | None
    parents: Parents

    @classmethod
    def open(cls, folder: Path) -> "Subject":
        """Reads headers and lock file.

        Raises:
            InputError: not a model folder, or one with damaged files.
        """
        checkpoint = Checkpoint.open(folder)
        lock = Lock.read(folder) if (folder / LOCK_FILE).is_file() else None
        return cls(folder, checkpoint, lock, Parents.read(folder))


def checks(subject: Subject, progress: Progress | None = None) -> Iterator[Check]:
    """Every check, one after the other; the weights are read once.

    Raises:
        MergeoptError: a file that changes meanwhile, or cannot be read.
    """
    steps: tuple[Callable[[Subject], Iterator[Check]], ...] = (_config, _tokenizer, _dtype, _size)
    for step in steps:
        yield from step(subject)
    yield from _weights(subject, progress)
    for step in (_side_files, _licence, _card, _chat_template, _files):
        yield from step(subject)


def _config(subject: Subject) -> Iterator[Check]:
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(subject.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its readers met
        yield Check("config", "fail", f"transformers cannot read config.json: {_first(error)}", "mend config.json")
        return
    yield Check("config", "ok", f"{(subject.checkpoint.config.get('architectures') or ['unnamed'])[0]} loads")
    try:
        wrong = misfits(subject.checkpoint)
    except InputError as error:
        yield Check("shapes", "warn", f"not compared with config.json: {error.problem}", error.remedy or "")
        return
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        yield Check("shapes", "fail", f"{wrong[0]}{more}", "is config.json that of these weights? merge again")
    else:
        yield Check("shapes", "ok", f"{len(subject.checkpoint.tensors)} tensors are those of config.json")


def _tokenizer(subject: Subject) -> Iterator[Check]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(subject.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        remedy = "copy the tokenizer files of a parent into the folder"
        yield Check("tokenizer", "fail", f"transformers cannot load it: {_first(error)}", remedy)
        return
    rows = subject.checkpoint.config.get("vocab_size")
    if isinstance(rows, int) and len(tokenizer) > rows:
        text = f"it has {len(tokenizer)} tokens, the model {rows} rows: some tokens have no embedding"
        yield Check("tokenizer", "fail", text, "merge with tokenizer_source: union, or give the right tokenizer")
    else:
        yield Check("tokenizer", "ok", f"{len(tokenizer)} tokens")


def _dtype(subject: Subject) -> Iterator[Check]:
    count: dict[str, int] = {}
    for tensor in subject.checkpoint.tensors.values():
        count[tensor.dtype] = count.get(tensor.dtype, 0) + tensor.numel
    main = max(count, key=lambda dtype: count[dtype])
    said = subject.checkpoint.config.get("dtype", subject.checkpoint.config.get("torch_dtype"))
    strange = sorted(count.keys() - set(USUAL))
    if strange and "quantization_config" not in subject.checkpoint.config:
        yield Check("dtype", "fail", f"tensors of {', '.join(strange)}", "merge with dtype: bfloat16")
    elif said not in (None, main):
        yield Check("dtype", "warn", f"config.json says {said}, the weights are {main}", "correct dtype in config.json")
    elif main == "float32":
        yield Check("dtype", "warn", "float32: twice the size for no gain in use", "merge with out_dtype: bfloat16")
    else:
        others = [dtype for dtype in count if dtype != main]
        also = f" ({', '.join(others)} in {sum(count[d] for d in others):,} numbers)" if others else ""
        yield Check("dtype", "ok", main + also)


def _size(subject: Subject) -> Iterator[Check]:
    numbers = sum(tensor.numel for tensor in subject.checkpoint.tensors.values())
    sizes = {file.name: file.stat().st_size for file in subject.checkpoint.files}
    largest = max(sizes, key=lambda name: sizes[name])
    text = f"{numbers:,} numbers, {size_text(sum(sizes.values()))} in {len(sizes)} files"
    if sizes[largest] > LARGEST_FILE:
        yield Check("size", "fail", f"{largest} is too large for the Hub", "merge with --max-shard-size 5GB")
    else:
        yield Check("size", "ok", text)


def _weights(subject: Subject, progress: Progress | None) -> Iterator[Check]:
    """Finite, and those that the lock file names."""
    read = read_through(subject.checkpoint, progress)
    if read.broken:
        more = f" and {len(read.broken) - 1} more" if len(read.broken) > 1 else ""
        text = f"NaN or infinity in {read.broken[0]}{more}"
        yield Check("weights", "fail", text, "mend the source, or merge with dtype: bfloat16")
    else:
        yield Check("weights", "ok", "every number is finite")
    if subject.lock is None:
        yield Check("hashes", "warn", f"no {LOCK_FILE}: nobody can verify what this is", "merge with mergeopt")
        return
    locked = {name: digest.removeprefix("xxh3-128:") for name, digest in subject.lock.outputs.items()}
    changed = [name for name in {**locked, **read.digests} if locked.get(name) != read.digests.get(name)]
    if changed:
        text = f"{len(changed)} tensors are not those of {LOCK_FILE}, first {changed[0]}"
        yield Check("hashes", "fail", text, "see `mergeopt reproduce`, or merge again")
    else:
        yield Check("hashes", "ok", f"{len(locked)} tensors are those of {LOCK_FILE}")


def _side_files(subject: Subject) -> Iterator[Check]:
    if subject.lock is None or subject.lock.side_files is None:
        return
    held = {name: hash_of((subject.folder / name).read_bytes()) for name in side_file_names(subject.folder)}
    locked = subject.lock.side_files
    changed = sorted(name for name in {**locked, **held} if locked.get(name) != held.get(name))
    if changed:
        text = f"changed since the merge: {', '.join(changed)}"
        yield Check("side files", "warn", text, "if that was meant, say so in the card")


def _licence(subject: Subject) -> Iterator[Check]:
    found = licences(subject.folder)
    if found[0].id == "unknown":
        yield Check(
            "licence", "warn", "the card states none", "find out the parents' and write license: into README.md"
        )
    else:
        yield Check("licence", "ok", ", ".join(licence.label for licence in found))


def _card(subject: Subject) -> Iterator[Check]:
    card = subject.folder / "README.md"
    if not card.is_file():
        yield Check("card", "fail", "there is no README.md", "merge again with mergeopt, or write one")
        return
    front = front_matter(card)
    leaks = subject.parents.leaks(card.read_text(encoding="utf-8", errors="replace"))
    missing = [name for name in CARD_FIELDS if not front.get(name)]
    if not front:
        yield Check("card", "fail", "README.md has no readable front matter", "begin it with --- and YAML")
    elif leaks:
        yield Check("card", "fail", f"README.md names a local path: {leaks[0]}", "name the model's Hub id instead")
    elif missing:
        remedy = "add them by hand; base_model takes Hub ids, which models on disk do not have"
        yield Check("card", "warn", f"its front matter has no {', '.join(missing)}", remedy)
    else:
        yield Check("card", "ok", "front matter is complete")


def _chat_template(subject: Subject) -> Iterator[Check]:
    try:
        own = chat_template(subject.checkpoint)
        having = [name for name, parent in subject.parents.opened().items() if chat_template(parent)]
    except MergeoptError as error:
        yield Check("chat template", "warn", str(error), "")
        return
    if own:
        yield Check("chat template", "ok", "there is one")
    elif having:
        remedy = "merge with chat_template: auto"
        yield Check("chat template", "warn", f"there is none; {', '.join(having)} has one", remedy)
    else:
        yield Check("chat template", "ok", "none, as in the parents that are on disk")


def _files(subject: Subject) -> Iterator[Check]:
    found = sorted({path.name for pattern in STRANGERS for path in subject.folder.glob(pattern)})
    if any(file.suffix != ".safetensors" for file in subject.checkpoint.files):
        yield Check("files", "fail", "the weights are pickles", "merge them into safetensors: mergeopt merge")
    elif found:
        yield Check("files", "warn", f"left out of the bundle: {', '.join(found[:6])}", "code and pickles are not sent")
    else:
        yield Check("files", "ok", "nothing that does not belong")


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(" :")[:200]
