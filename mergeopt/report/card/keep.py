"""A card that somebody wrote or edited is kept; only one that is as we left it is written anew.

The last line of our cards is a comment with the hash of all that stands before it. Where it does not fit, the card is a
person's, and ours goes beside it as README.mergeopt.md.
"""

import re
from pathlib import Path

from mergeopt.checkpoint.hashing import hash_of
from mergeopt.files import remove_files, write_text

CARD = "README.md"
BESIDE = "README.mergeopt.md"
_SEAL = re.compile(r"<!-- card by mergeopt; as long as it is unchanged it is kept up to date: ([\w:-]+) -->\n?\Z")


def sealed(text: str) -> str:
    """The card with its last line."""
    text = text.rstrip("\n") + "\n\n"
    seal = f"card by mergeopt; as long as it is unchanged it is kept up to date: {hash_of(text.encode())}"
    return f"{text}<!-- {seal} -->\n"


def is_ours(card: Path) -> bool:
    """Is it a card that we wrote and nobody has changed?"""
    text = card.read_text(encoding="utf-8", errors="replace")
    found = _SEAL.search(text)
    return found is not None and found[1] == hash_of(text[: found.start()].encode())


def write_card(out: Path, text: str) -> str | None:
    """Writes the card of a model folder; returns what the user should know, or None.

    Raises:
        MergeoptError: disk full, no permission.
    """
    kept = out / CARD
    if kept.exists() and not is_ours(kept):
        write_text(out / BESIDE, sealed(text))
        return f"{kept} was written or edited by hand and is kept; the new card is {BESIDE} beside it"
    write_text(kept, sealed(text))
    remove_files([out / BESIDE])
    return None


def remove_card(out: Path) -> None:
    """Removes the card of an earlier model, unless somebody wrote or edited it."""
    remove_files(card for card in (out / CARD, out / BESIDE) if card.is_file() and is_ours(card))
