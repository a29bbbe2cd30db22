"""What a search may vary: holes in a recipe, the space they span, and how a point becomes a plain recipe again.

Pure: no torch, no files. What a model looks like arrives as a `Shape`.
"""
