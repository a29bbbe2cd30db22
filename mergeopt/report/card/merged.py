"""The card of a plain merge: the same as a search's, without a table."""

from mergeopt.merge.folder import Prepared, portability
from mergeopt.merge.refinement import SIDECAR
from mergeopt.merge.stages import PreparedChain, PreparedStage
from mergeopt.recipe.recipe import ModelRef
from mergeopt.recipe.write import recipe_data
from mergeopt.report.card.front import card
from mergeopt.report.card.naming import Names, last_part


def merge_card(chain: PreparedChain, name: str) -> str:
    """README.md for the output of `mergeopt merge`, `name` being what it is called."""
    found = [_names(each) for each in chain.stages]
    stages = {each.stage.name: last_part(each.stage.name) for each in chain.stages if each.stage.name}
    names = Names(
        models={key: value for each in found for key, value in each.models.items()},
        parts=stages | {key: value for each in found for key, value in each.parts.items()},
        hub=tuple(dict.fromkeys(hub for each in found for hub in each.hub)),
        folders={key: value for each in found for key, value in each.folders.items()},
    )
    last = chain.final
    documents = [_document(each.prepared, each.stage.name) for each in chain.stages]
    says = f"made with mergeopt{f' in {len(documents)} stages' if len(documents) > 1 else ''}."
    return card(name, says, last.recipe, names, configuration=documents, portability=portability(last))


def _names(each: PreparedStage) -> Names:
    """The names of the models of a stage that are no stages themselves."""
    prepared = each.prepared
    own: list[ModelRef] = [ref for ref in prepared.recipe.named if ref not in each.stage.needs]
    return Names.of(prepared.checkpoints, own)


def _document(prepared: Prepared, name: str) -> dict[str, object]:
    data = ({"name": name} if name else {}) | recipe_data(prepared.recipe)
    return data | ({} if prepared.refinement is None else {"refinement": SIDECAR})
