"""Jinja templates of task files, sandboxed and compiled once.

lm-eval renders with an open environment, in which a template can reach any Python object, and compiles every template
again for every field of every document. Here a template is data: it cannot run code, and it is compiled once.
"""

from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment


class Templates(SandboxedEnvironment):
    """A sandbox that renders what lm-eval's own environment would; an unsafe access raises jinja's SecurityError."""

    def __init__(self, original: Environment) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=original.keep_trailing_newline)
        self.filters.update(original.filters)
        self._compiled: dict[str, Template] = {}

    def from_string(self, source: Any, *arguments: Any, **settings: Any) -> Template:
        """The compiled template, from the second time on without compiling."""
        if arguments or settings or not isinstance(source, str):
            return super().from_string(source, *arguments, **settings)
        if source not in self._compiled:
            self._compiled[source] = super().from_string(source)
        return self._compiled[source]
