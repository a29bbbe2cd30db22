"""The earlier steps of a search over chains: views of merges that are made while they are read, never written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mergeopt.merge.stages import prepare_stages
from mergeopt.merge.unmade import Unmade, unmade
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import Document
from mergeopt.recipe.recipe import ModelRef, Recipe
from mergeopt.recipe.stages import Stage, Stages, needs_of, read_steps
from mergeopt.space.orders import earlier_steps


@dataclass(frozen=True)
class Steps:
    """Every step before the last of any branch, by name; empty where the recipe is no chain."""

    document: Document
    stages: Mapping[str, Stage] = field(default_factory=dict)
    views: Mapping[str, Unmade] = field(default_factory=dict, repr=False)
    notices: tuple[str, ...] = ()

    @classmethod
    def planned(cls, document: Document, seed: int, near: Path | None) -> "Steps":
        """Plans the steps of a search file's recipe from the headers of their models.

        Args:
            document: The recipe with its holes.
            seed: Of random masks, where the recipe gives none.
            near: The search file's folder.

        Raises:
            InputError: a step that is no recipe, models that are missing or do not fit together.
        """
        if "chain" not in document.data:
            return cls(document)
        documents = [replace(d, data={"seed": seed} | d.data) for d in earlier_steps(document, SCHEMAS)]
        if not documents:
            return cls(document)
        read = read_steps(documents, SCHEMAS)
        stages = tuple(replace(stage, near=near or Path()) for stage in read.stages)
        prepared = {each.stage.name: each.prepared for each in prepare_stages(Stages(stages, ())).stages}
        views = {name: unmade(made, name) for name, made in prepared.items()}
        said: dict[str, str] = {}
        for name, made in prepared.items():
            for text in made.notices:
                said.setdefault(text, f"{name}: {text}")  # of many steps, the first
        return cls(document, {s.name: s for s in stages}, views, (*read.notices, *said.values()))

    def needed(self, recipe: Recipe) -> dict[ModelRef, str]:
        """Which models of a recipe are steps, and the name of each."""
        return needs_of(recipe, self.stages, self.document)

    def below(self, recipe: Recipe) -> tuple[Stage, ...]:
        """The steps that a recipe stands on, each after what it needs itself."""
        found: dict[str, Stage] = {}

        def visit(names: Iterable[str]) -> None:
            for stage in (self.stages[name] for name in names):
                visit(stage.needs.values())
                found[stage.name] = stage

        visit(self.needed(recipe).values())
        return tuple(found.values())

    def chain(self, recipe: Recipe, near: Path | None) -> Stages:
        """The whole chain whose last step is `recipe`: of a recipe that stands on no step that alone."""
        last = Stage("", recipe, self.needed(recipe), self.document.where(), near or Path())
        return Stages((*self.below(recipe), last), ())

    def inner(self, recipes: Sequence[Recipe]) -> set[ModelRef]:
        """The steps that none of the recipes reads itself."""
        return {ModelRef(name) for name in self.stages} - {ref for recipe in recipes for ref in recipe.named}
