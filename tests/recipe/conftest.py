from textwrap import dedent

import pytest

from mergeopt.errors import InputError
from mergeopt.methods import SCHEMAS
from mergeopt.recipe.document import parse_document
from mergeopt.recipe.read import Reading, read_recipe


def reading(text: str) -> Reading:
    """The recipe in `text`, as if read from r.yml."""
    return read_recipe(parse_document(dedent(text), "r.yml"), SCHEMAS)


def refusal(text: str) -> str:
    """The one line that refuses `text`."""
    with pytest.raises(InputError) as caught:
        reading(text)
    line = str(caught.value)
    assert "\n" not in line
    return line
