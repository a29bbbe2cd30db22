"""Whether a teacher's distribution over token ids means anything to another model."""

from transformers import PreTrainedTokenizerBase

from mergeopt.errors import InputError


def check_same_vocabulary(teacher: PreTrainedTokenizerBase, learner: PreTrainedTokenizerBase) -> None:
    """Whether two tokenizers give their tokens the same ids; tokens that only one of them has do not hinder.

    Raises:
        InputError: An id means different tokens, or a token has different ids.
    """
    first, second = teacher.get_vocab(), learner.get_vocab()
    token_of = {index: token for token, index in second.items()}
    moved = sorted(t for t, i in first.items() if second.get(t, i) != i or token_of.get(i, t) != t)
    if moved:
        some = ", ".join(map(repr, moved[:3]))
        raise InputError(
            f"the teacher's vocabulary differs: {len(moved)} of its {len(first)} tokens have another id ({some})",
            remedy="learn from answers instead: `loss: nll`",
        )
