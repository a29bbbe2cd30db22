"""Recipes that build on one another, in the order in which they must be made.

mergekit-multi's convention: a file holds several documents, one may go without a `name:` and is the output, and a model
of a stage's name is that stage's merge. A name is looked for only where a model is expected, so a stage may be called
`linear` or `bfloat16`. Several files given in order are read as the documents of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from mergeopt.errors import InputError
from mergeopt.recipe.chain import written_out
from mergeopt.recipe.document import Document
from mergeopt.recipe.read import Schemas, read_recipe
from mergeopt.recipe.recipe import ModelRef, Recipe


@dataclass(frozen=True, slots=True)
class Stage:
    """One merge of a chain: `needs` maps models of its recipe to the names of the stages that make them."""

    name: str
    recipe: Recipe
    needs: Mapping[ModelRef, str]
    where: str
    near: Path  # the folder of its file


@dataclass(frozen=True)
class Stages:
    """The stages in the order to be made; the last one is the output. A plain recipe is one stage."""

    stages: tuple[Stage, ...]
    notices: tuple[str, ...]

    @property
    def final(self) -> Stage:
        return self.stages[-1]

    @property
    def earlier(self) -> tuple[Stage, ...]:
        return self.stages[:-1]

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model that must exist beforehand, each once."""
        return tuple(dict.fromkeys(ref for s in self.stages for ref in s.recipe.named if ref not in s.needs))


def read_stages(documents: Sequence[Document], schemas: Schemas) -> Stages:
    """Reads recipes and orders them.

    Args:
        documents: Of one file, or of several in the order given. In a file before the last one the document without
            a name is called after the file.
        schemas: Every known method.

    Raises:
        InputError: what `read_recipe` refuses; two documents without a name or of one name; a circle; no single output.
    """
    documents = [part for document in documents for part in written_out(document, schemas)]
    if len(documents) == 1:  # its name has no effect, as in mergekit
        reading = read_recipe(documents[0], schemas)
        stage = Stage("", reading.recipe, {}, documents[0].source, Path(documents[0].source).parent)
        return Stages((stage,), reading.notices)
    stages, notices = _read(_names(documents), schemas)
    final = _final(stages)
    order = _ordered(final, stages)
    notices += [
        f"{s.where}: no other uses the stage {n!r}: it is not made" for n, s in stages.items() if s not in order
    ]
    return Stages(tuple(order), tuple(dict.fromkeys(notices)))


def read_steps(documents: Sequence[Document], schemas: Schemas) -> Stages:
    """Named documents that a search's candidates stand on, none of them the output, each after what it needs.

    Raises:
        InputError: what `read_recipe` refuses.
    """
    stages, notices = _read({document.data["name"]: document for document in documents}, schemas)
    return Stages(tuple(stages.values()), tuple(dict.fromkeys(notices)))


def needs_of(recipe: Recipe, names: Iterable[str], document: Document) -> dict[ModelRef, str]:
    """Which models of a recipe are stages, and the name of each."""
    return {ref: found for ref in recipe.named if (found := _stage_of(ref, names, document))}


def _read(named: Mapping[str, Document], schemas: Schemas) -> tuple[dict[str, Stage], list[str]]:
    notices: list[str] = []
    stages = {}
    for name, document in named.items():
        reading = read_recipe(document, schemas)
        notices += reading.notices
        needs = needs_of(reading.recipe, named, document)
        notices += [
            f"{document.where()}: model {str(ref)!r} is taken for the stage {found!r}"
            for ref, found in needs.items()
            if ref.path != found
        ]
        near = Path(document.source).parent
        stages[name] = Stage(name, reading.recipe, needs, document.where(), near)
    return stages, notices


def _names(documents: Sequence[Document]) -> dict[str, Document]:
    """Every document by its name; the output may have none: ""."""
    named: dict[str, Document] = {}
    for document in documents:
        given = document.data.get("name") if isinstance(document.data, dict) else None
        if given is not None and (not isinstance(given, str | int | float) or not str(given).strip()):
            raise InputError(f"{given!r} is no name", where=document.where(("name",)), remedy="write name: first")
        name = "" if given is None else str(given).strip()
        if not name and document.source != documents[-1].source:
            name = Path(document.source).stem
        if name in named:
            problem = f"a second stage is called {name!r}" if name else "a second document without a name"
            raise InputError(
                f"{problem} (the first: {named[name].where()})",
                where=document.where(("name",) if given is not None else ()),
                remedy="only the final one goes without; give the others a name: each",
            )
        named[name] = document
    return named


def _stage_of(ref: ModelRef, names: Iterable[str], document: Document) -> str | None:
    """The stage that a model stands for: by its name, or as a missing local path that ends in it.

    Authors write where mergekit put the stage on their own disk: ``./intermediates/first``.
    """
    if ref.revision is not None:
        return None
    if ref.path in names:
        return ref.path
    local = ref.path[:1] in ("/", ".", "~") or PureWindowsPath(ref.path).drive or "\\" in ref.path
    last = PureWindowsPath(ref.path).name if "\\" in ref.path else PurePosixPath(ref.path).name
    if not local or last not in names:
        return None
    given = Path(ref.path).expanduser()
    exists = given.is_dir() or (Path(document.source).parent / given).is_dir()
    return None if exists else last


def _final(stages: Mapping[str, Stage]) -> Stage:
    """The output: the stage without a name, else the only one that no other uses."""
    if "" in stages:
        return stages[""]
    used = {name for stage in stages.values() for name in stage.needs.values()}
    last = [stage for name, stage in stages.items() if name not in used]
    if len(last) == 1:
        return last[0]
    if not last:
        raise _circle(list(stages.values()))
    listed = " and ".join(repr(stage.name) for stage in last)
    raise InputError(
        f"{listed} are used by no other stage: which is the output?",
        where=last[-1].where,
        remedy="leave out the name of the final one",
    )


def _ordered(final: Stage, stages: Mapping[str, Stage]) -> list[Stage]:
    """What `final` needs, each after what it needs itself."""
    order: dict[str, Stage] = {}

    def visit(stage: Stage, above: list[Stage]) -> None:
        if stage.name in order:
            return
        if stage in above:
            raise _circle(above[above.index(stage) :])
        for name in dict.fromkeys(stage.needs.values()):
            visit(stages[name], [*above, stage])
        order[stage.name] = stage

    visit(final, [])
    return list(order.values())


def _circle(stages: Sequence[Stage]) -> InputError:
    names = " -> ".join(repr(stage.name) for stage in [*stages, stages[0]])
    return InputError(
        f"the stages need each other in a circle: {names}",
        where=stages[0].where,
        remedy="a stage may only use what was made before it",
    )
