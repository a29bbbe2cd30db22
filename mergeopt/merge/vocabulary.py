"""Which vocabulary the output has: whose tokenizer, with which tokens, and the models seen through it.

Without a request the tokenizer files are copied, and embeddings are merged row by row, by number. `tokenizer:` or
`tokenizer_source:` ask for a vocabulary: then every model's rows are brought to it first, token by token. New tokens
stand in the order of the models listed (mergekit's order is random).
"""

import filecmp
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mergeopt.checkpoint.checkpoint import Checkpoint
from mergeopt.checkpoint.jsonfile import encode_json, read_json_object
from mergeopt.checkpoint.layout import text_config
from mergeopt.checkpoint.sidefiles import copy_side_files
from mergeopt.checkpoint.tokenizer import special_token_difference, vocabulary_difference
from mergeopt.checkpoint.tokens import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    VOCABULARY_FILES,
    Definition,
    Tokens,
    read_tokens,
    special_tokens,
)
from mergeopt.errors import InputError
from mergeopt.files import write_text
from mergeopt.merge.embeddings import find_rows, row_count, views, vocabulary_names
from mergeopt.merge.sources import Checkpoints, facts
from mergeopt.merge.templates import TEMPLATE_FILE, choose_template
from mergeopt.recipe.recipe import ModelRef, Recipe, TokenizerRequest

_SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_SLOW_FILES = frozenset({*VOCABULARY_FILES, "added_tokens.json", "merges.txt"} - {TOKENIZER_FILE})


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`donor` gives the tokenizer files, but for `files`, which are written over them, and `without`, which go."""

    donor: ModelRef
    checkpoints: Checkpoints = field(repr=False)  # the models as they are merged
    notices: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    without: frozenset[str] = frozenset()


def choose_vocabulary(recipe: Recipe, checkpoints: Checkpoints) -> Vocabulary:
    """Settles `tokenizer`, `tokenizer_source` and `chat_template`.

    Args:
        recipe: What is asked.
        checkpoints: Every model in `recipe.named`.

    Raises:
        InputError: no tokenizer to start from, a rule that cannot be followed, an unknown template.
    """
    if recipe.tokenizer is None:
        plain = Vocabulary(recipe.donor, checkpoints, tuple(_differences(recipe, recipe.donor, checkpoints)))
    else:
        plain = _Making(recipe, recipe.tokenizer, checkpoints).run()
    template, notices = choose_template(recipe, checkpoints)
    if template is None:
        return replace(plain, notices=(*plain.notices, *notices))
    files = {**plain.files, TEMPLATE_FILE: template}
    config = _config_without_template(checkpoints[plain.donor], files.get(CONFIG_FILE))
    if config is not None:
        files[CONFIG_FILE] = config
    without = plain.without | {"chat_template.json"}
    return replace(plain, files=files, without=without, notices=(*plain.notices, *notices))


def carry_files(vocabulary: Vocabulary, out: Path) -> tuple[Path, ...]:
    """Writes the tokenizer and the donor's other files beside the weights; returns what was written.

    Raises:
        MergeoptError: disk full, no permission.
    """
    donor = vocabulary.checkpoints[vocabulary.donor]
    copies = copy_side_files(donor, out, without=vocabulary.without | vocabulary.files.keys())
    for name, text in vocabulary.files.items():
        write_text(out / name, text)
    return (*copies, *(out / name for name in vocabulary.files))


class _Making:
    def __init__(self, recipe: Recipe, request: TokenizerRequest, checkpoints: Checkpoints) -> None:
        self.recipe, self.request, self.checkpoints = recipe, request, checkpoints
        self.members = request.among or recipe.models
        self.base = request.base if request.among else recipe.base
        self.donor = request.source if isinstance(request.source, ModelRef) else self.base or self.members[0]
        self.notices: list[str] = []

    def run(self) -> Vocabulary:
        spoken = tuple(dict.fromkeys([*self.members, *self.recipe.models, *self.request.models, self.donor]))
        tokens = self._tokens(spoken)
        merged = [ref for ref in spoken if ref != self.request.source or ref in self._lenders()]
        counts = {ref: row_count(self.checkpoints[ref]) for ref in merged}
        own = tokens[self.donor]
        if not isinstance(self.request.source, ModelRef):
            own = own.cut(counts[self.donor])
        made = own.extended(self._new(own, tokens, counts))
        size = self._size(made, counts)
        rows = find_rows(
            made.ids,
            size,
            {ref: (tokens[ref].ids, counts[ref]) for ref in merged},
            base=self.base,
            among=self.members,
            rules=self.request.rules,
        )
        opened = {ref: self.checkpoints[ref] for ref in merged}
        tied = {ref: known.tied for ref, known in facts(opened).items()}
        seen = views(rows, opened, vocabulary_names(opened, tied))
        for ref, view in seen.items():
            if view is not opened[ref]:
                seen[ref] = replace(view, config=self._renumbered(view.config, tokens[ref], made))
        if len(rows.orphans):
            names = {index: token for token, index in made.ids.items()}
            self.notices.append(f"no model has a row for {_some([names[i] for i in rows.orphans.tolist()])}: zeros")
        self.notices += _differences(self.recipe, self.donor, self.checkpoints, special_only=True)
        files, without = self._files(tokens[self.donor], made)
        return Vocabulary(self.donor, {**self.checkpoints, **seen}, tuple(self.notices), files, without)

    def _lenders(self) -> set[ModelRef]:
        """Models whose rows are wanted: one that is only the tokenizer's source need not be of the architecture."""
        request = replace(self.request, source="union")
        return {*self.members, *self.recipe.models, *request.models}

    def _tokens(self, refs: Sequence[ModelRef]) -> dict[ModelRef, Tokens]:
        """Every model's tokens; one without a tokenizer is taken to share the donor's."""
        donor = read_tokens(self.checkpoints[self.donor])
        if donor is None:
            raise InputError(
                f"{str(self.donor)!r} has no tokenizer, which the output's would be made from",
                remedy="copy the tokenizer files into its folder, or name another tokenizer source",
            )
        found = {self.donor: donor}
        for ref in refs:
            same = ref == self.donor or same_files(self.checkpoints[self.donor], self.checkpoints[ref])
            tokens = donor if same else read_tokens(self.checkpoints[ref])
            if tokens is None:
                self.notices.append(f"{str(ref)!r} has no tokenizer: it is taken to share that of {str(self.donor)!r}")
            found[ref] = tokens or donor
        return found

    def _new(
        self, own: Tokens, tokens: Mapping[ModelRef, Tokens], counts: Mapping[ModelRef, int]
    ) -> list[tuple[str, Definition | None]]:
        """What the donor's tokenizer is to know besides, with definitions: the first model's that has one."""
        new: dict[str, Definition | None] = {}
        definitions: dict[str, Definition] = {}
        literal: dict[str, None] = {}
        if self.request.source == "union":
            for ref in self.members:
                ids = tokens[ref].ids
                rows = counts[ref]
                usable = sorted((t for t, i in ids.items() if i < rows), key=ids.__getitem__)
                new |= dict.fromkeys(usable)
                for token, definition in tokens[ref].added.items():
                    if ids[token] < rows:
                        definitions.setdefault(token, definition)
            literal = dict.fromkeys(t for t in new if t not in own.ids and t not in definitions)
        new |= dict.fromkeys(rule.token for rule in self.request.rules)
        new = {token: definitions.get(token) for token in new}
        for token in special_tokens(self.checkpoints[self.donor]).values():
            if token not in own.ids and new.get(token) is None:  # loaders would number it beyond the last row
                new[token] = _SPECIAL
        if literal:
            self.notices.append(
                f"{_some(list(literal))} {'are' if len(literal) > 1 else 'is'} no word of {str(self.donor)!r}: "
                "matched as literal text, as in mergekit"
            )
        return list(new.items())

    def _size(self, made: Tokens, counts: Mapping[ModelRef, int]) -> int:
        needed = max(made.ids.values()) + 1
        multiple = self.request.pad_to_multiple_of or 1
        size = -(-needed // multiple) * multiple
        before = counts.get(self.recipe.donor, 0)
        if before > size:
            lost = before - size
            self.notices.append(
                f"{lost} rows of {str(self.recipe.donor)!r} stand for no token of the output and are left out; "
                "pad_to_multiple_of keeps the number round"
            )
        return size

    def _renumbered(self, config: Mapping[str, Any], old: Tokens, made: Tokens) -> dict[str, Any]:
        """The config with the ids of special tokens as they are in the new vocabulary."""
        names = {index: token for token, index in old.ids.items()}
        special = special_tokens(self.checkpoints[self.donor])

        def moved(key: str, value: Any) -> Any:
            if isinstance(value, list):
                return [moved(key, item) for item in value]
            if type(value) is not int or value not in names or made.ids.get(names[value]) == value:
                return value
            if names[value] in made.ids:
                return made.ids[names[value]]
            return made.ids.get(special.get(key.removesuffix("_id"), ""))

        def of(part: Mapping[str, Any]) -> dict[str, Any]:
            return {k: moved(k, v) if k.endswith(("_token_id", "_token_index")) else v for k, v in part.items()}

        result = of(config)
        language = text_config(config)
        if language is not config:
            result["text_config"] = of(language)
        return result

    def _files(self, before: Tokens, made: Tokens) -> tuple[dict[str, str], frozenset[str]]:
        """The tokenizer as it is written; nothing where the donor's is right as it is."""
        if made is before:
            return {}, frozenset()
        text = encode_json(made.document).decode("utf-8")
        _check_loads(text, made, self.donor)
        files = {TOKENIZER_FILE: text}
        file = self.checkpoints[self.donor].folder / CONFIG_FILE
        config = read_json_object(file) if file.is_file() else {}
        if "added_tokens_decoder" in config:
            added = sorted(made.added, key=made.ids.__getitem__)
            entries = {str(made.ids[token]): {"content": token, **made.added[token]} for token in added}
            files[CONFIG_FILE] = encode_json({**config, "added_tokens_decoder": entries}).decode("utf-8")
        return files, _SLOW_FILES


def same_files(a: Checkpoint, b: Checkpoint) -> bool:
    """Are the tokenizers the same bytes? Spares parsing them, which takes long for large vocabularies."""
    for name in (TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json"):
        first, second = a.folder / name, b.folder / name
        if not (first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False)) and (
            name == TOKENIZER_FILE or first.is_file() or second.is_file()
        ):
            return False
    return True


def _differences(recipe: Recipe, donor: ModelRef, checkpoints: Checkpoints, *, special_only: bool = False) -> list[str]:
    """Where a model's tokenizer is another than the one that is written, in words."""
    found = []
    for ref in recipe.models:
        if ref == donor or same_files(checkpoints[donor], checkpoints[ref]):
            continue
        vocabulary = None if special_only else vocabulary_difference(checkpoints[donor], checkpoints[ref])
        special = special_token_difference(checkpoints[donor], checkpoints[ref])
        if vocabulary or special:
            found.append(
                f"the tokenizers of {str(donor)!r} and {str(ref)!r} differ ({vocabulary or special}); "
                f"the output carries that of {str(donor)!r}"
            )
    return found


def _check_loads(text: str, made: Tokens, donor: ModelRef) -> None:
    """The library that will read the file must give every token the id that its row has.

    Raises:
        InputError: it does not.
    """
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_str(text).get_vocab(with_added_tokens=True)
        different = [token for token, index in made.ids.items() if loaded.get(token) != index]
    except Exception as error:  # the library raises plain Exception
        different = [str(error)]
    if different:
        raise InputError(
            f"the tokenizer of {str(donor)!r} cannot be changed: its ids do not follow on ({_some(different)})",
            remedy="give another model as the tokenizer's source",
        )


def _config_without_template(donor: Checkpoint, text: str | None) -> str | None:
    """tokenizer_config.json without a template of its own, which must not win over the one that is written."""
    file = donor.folder / CONFIG_FILE
    if text is None and not file.is_file():
        return None
    config = read_json_object(file) if text is None else json.loads(text)
    if "chat_template" not in config:
        return text
    return encode_json({key: value for key, value in config.items() if key != "chat_template"}).decode("utf-8")


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(map(repr, tokens[:3])) + (f" and {len(tokens) - 3} more" if len(tokens) > 3 else "")
