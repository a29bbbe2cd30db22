"""What is said of a layout; the other sentences are held by the tests of what causes them."""

from mergeopt.merge.layout import Facts, lay_out
from mergeopt.merge.notices import layout_notices
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.recipe import ModelRef
from tests.merge.conftest import facts_of, recipe_of

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"


def notices(text: str, facts: Facts) -> list[str]:
    recipe = recipe_of(text)
    models = dict.fromkeys((ModelRef("a"), ModelRef("b")), facts)
    return layout_notices(lay_out(recipe, models, SCHEMAS["linear"]), recipe, models)


def test_precision_that_models_keep_is_not_lost_in_silence():
    wide = {f"model__layers__{i}__mlp__gate__bias": ("float32", (4,)) for i in range(2)}
    stored = {name.replace(".", "__"): ("bfloat16", info.shape) for name, info in facts_of(2).shape.tensors.items()}
    mixed = facts_of(2, **stored, **wide)
    words = "kept in float32 by the models, written as bfloat16: 'model.layers.0.mlp.gate.bias' and 1 more"
    assert notices(LINEAR + "dtype: bfloat16\n", mixed) == [words]
    assert notices(LINEAR, mixed) == []  # every tensor keeps its own dtype
    assert notices(LINEAR + "dtype: bfloat16\n", facts_of(2)) == []  # the user narrows the whole model
