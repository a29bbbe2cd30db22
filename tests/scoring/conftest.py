"""A tiny Llama that has half learned to answer, a character tokenizer, and local lm-eval tasks."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = "abcdefgh"
CHARACTERS = sorted(set(LETTERS + "ABCDEFGH :=->?\n_0123456789"))


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def make_model(*, seed: int = 0, layers: int = 2, positions: int = 128) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=4 + len(CHARACTERS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def question(rng: random.Random) -> tuple[str, str]:
    """Write the first letter in capitals: easy enough to learn in seconds, on unseen letters too."""
    word = "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 5)))
    return word, word[0].upper()


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, steps: int, seed: int = 0) -> None:
    """A few steps on ``upper: abc =>`` → `` A\\n``: right on some items and wrong on others."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        texts = [f"upper: {q} => {a}\n" for q, a in (question(rng) for _ in range(32))]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def model(_one_thread: None, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    trained = make_model()
    train(trained, tokenizer, steps=120)
    return trained


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def short_model() -> LlamaForCausalLM:
    """A random model of 24 positions."""
    return make_model(positions=24)


@pytest.fixture(scope="session", autouse=True)
def _data_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = str(tmp_path_factory.mktemp("datasets"))
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session", autouse=True)
def _no_environment_report() -> Iterator[None]:
    """lm-eval runs `pip list` on every call otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        patch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)
        patch.setenv("TQDM_DISABLE", "1")
        yield


TaskMaker = Callable[..., Path]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(kind: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        word, answer = question(rng)
        wrong = rng.choice([c for c in word.upper() if c != answer] or "Z")  # a letter of the word: hard to tell
        choices, label = ([answer, wrong], 0) if i % 2 else ([wrong, answer + answer], 1)
        rows.append({"n": 1000 * seed + i, "q": word, "a": answer, "choices": choices, "label": label})
    return rows


OUTPUTS: dict[str, dict[str, Any]] = {
    "generate": {
        "output_type": "generate_until",
        "doc_to_text": "upper: {{q}} =>",
        "doc_to_target": " {{a}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "upper: {{q}} =>",
        "doc_to_target": "label",
        "doc_to_choice": "choices",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "upper: {{q}} => {{a}}",
        "metric_list": [
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        ],
    },
}


@pytest.fixture
def make_task(tmp_path: Path) -> TaskMaker:
    """Writes a local task of a kind (generate, choice, rolling) and its data; returns the YAML's path."""

    def make(kind: str, *, name: str | None = None, train: int = 40, test: int = 0, **config: Any) -> Path:
        name = name or kind
        files = {"train": f"{name}.train.jsonl"}
        write_lines(tmp_path / files["train"], rows_of(kind, train, seed=1))
        task = {"task": name, "dataset_path": "json", "training_split": "train", "validation_split": "train"}
        if test:
            files["test"] = f"{name}.test.jsonl"
            write_lines(tmp_path / files["test"], rows_of(kind, test, seed=2))
            del task["validation_split"]
            task["test_split"] = "test"
        task |= {"dataset_kwargs": {"data_files": files}, "num_fewshot": None, **OUTPUTS[kind], **config}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(task))
        return path

    return make
