"""Small families of language models, trained from scratch in minutes: something real to merge.

`tasks` are exactly checkable string functions; `spec` says what a family is; `family` trains one into a folder.
"""
