"""Learn how to merge language models.

A recipe says how sources become one model; methods are the arithmetic; checkpoint holds the tensors; merge joins
the two; a space says what may vary; an optimizer proposes; scoring measures; a study repeats and remembers; a
report tells.
"""

__version__ = "0.1.0"
