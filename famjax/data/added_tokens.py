"""Added tokens that a model's embedding table has no rows for: they are left out of its vocabulary."""

import json
from collections.abc import Mapping, Sequence

from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.errors import DataError


def tokens_beyond(
    config: HuggingFaceVocabulary | SentencePieceVocabulary,
    num_ordinary: int,
    added: Mapping[str, int],
    special: Mapping[str, str | None],
) -> tuple[str, ...]:
    """Texts of the added tokens that `config.table_size` leaves out, by id; none where it is None.

    Args:
      config: of the tokenizer.
      num_ordinary: the ids of tokens that were not added are below this.
      added: ids of added tokens by their texts.
      special: texts of special tokens by their names.

    Raises:
      DataError: an ordinary or a special token has no row in the table.
    """
    size, table = config.table_size, f"of the model's embedding table ({type(config).__name__}.table_size)"
    if size is None:
        return ()
    if num_ordinary > size:
        raise DataError(
            f"{config.path}: its ordinary tokens have ids up to {num_ordinary - 1}, beyond the {size} rows {table}; "
            "only added tokens can be left out."
        )
    left_out = tuple(sorted((text for text, number in added.items() if number >= size), key=added.__getitem__))
    for name, text in special.items():
        if text in left_out:
            raise DataError(
                f"{config.path}: {name} {text!r} has the id {added[text]}, beyond the {size} rows {table}, and cannot "
                f"be left out; set another {name} in tokenizer_config.json beside it."
            )
    return left_out


def without_tokens(raw: bytes, texts: Sequence[str]) -> bytes:
    """A tokenizer.json without some of its added tokens, those with the highest ids."""
    content = json.loads(raw)
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in texts]
    vocab = content["model"]["vocab"]  # it may have them too
    if isinstance(vocab, list):  # of a Unigram model: [text, score] in the order of ids
        content["model"]["vocab"] = [piece for piece in vocab if piece[0] not in texts]
    else:
        content["model"]["vocab"] = {text: number for text, number in vocab.items() if text not in texts}
    return json.dumps(content).encode()
