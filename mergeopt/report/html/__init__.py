"""`search/report.html`: one file that says what a search found, how, and by what evidence.

Facts are read off an output folder (`facts`), each figure makes its own view of them and draws it (`history`, `forest`
and so on, over the small `svg`), and one template joins them (`page`). No script, nothing from the network; every name
and text is escaped, for models and items are named by strangers. It holds items' texts, so it stays in search/.
"""
