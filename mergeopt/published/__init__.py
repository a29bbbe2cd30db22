"""Merges that others published: recipe, parents and claimed scores, one file each, to be made and measured again.

The files stand in ``library/``. They are written here from published facts, never copied; to add a merge, add a file.
They travel with the package because `reproduce published:NAME` must find them wherever it is installed.
"""
