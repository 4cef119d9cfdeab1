"""Vocabularies between seqio and famjax. Imports tensorflow; only what needs seqio imports this."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from numpy.typing import NDArray

from famjax.data.vocabularies import Ids, Vocabulary


class ToSeqio(seqio.Vocabulary):
    """A famjax vocabulary as seqio wants it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Wraps `vocabulary`."""
        super().__init__()
        self._vocabulary = vocabulary

    @property
    def pad_id(self) -> int:
        """See seqio.Vocabulary."""
        return self._vocabulary.pad_id

    @property
    def bos_id(self) -> int:
        """See seqio.Vocabulary."""
        return self._vocabulary.bos_id

    @property
    def eos_id(self) -> int | None:
        """See seqio.Vocabulary."""
        return self._vocabulary.eos_id

    @property
    def unk_id(self) -> int | None:
        """See seqio.Vocabulary; ids beyond the vocabulary are not replaced."""
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self._vocabulary.vocab_size

    def _encode(self, s: str) -> Sequence[int]:
        return [int(i) for i in self._vocabulary.encode(s)]

    def _decode(self, ids: Iterable[Any]) -> str:
        return self._vocabulary.decode([int(i) for i in ids])

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(raw: bytes | NDArray[Any]) -> NDArray[np.int32]:
            text = raw if isinstance(raw, bytes) else raw.item()  # eagerly tensorflow passes an array
            return self._vocabulary.encode(text.decode())

        return tf.ensure_shape(tf.numpy_function(encode, [s], tf.int32, stateful=False), [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(values: NDArray[Any]) -> Any:
            if values.ndim == 1:
                return self._vocabulary.decode(values).encode()
            return np.array([decode(row) for row in values], dtype=object)

        return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string, stateful=False), ids.shape[:-1])

    def __eq__(self, other: object) -> bool:
        """Whether both encode alike."""
        return isinstance(other, ToSeqio) and self._vocabulary.fingerprint == other._vocabulary.fingerprint

    def __hash__(self) -> int:
        """Agrees with equality."""
        return hash(self._vocabulary.fingerprint)


class FromSeqio:
    """A seqio vocabulary as famjax wants it."""

    chat = None

    def __init__(self, vocabulary: seqio.Vocabulary, *others: seqio.Vocabulary) -> None:
        """Wraps `vocabulary`; ids of `others` stand in the same examples, and `vocab_size` is that of the largest."""
        self._vocabulary = vocabulary
        self.fingerprint = repr(vocabulary)
        self.vocab_size = max(int(each.vocab_size) for each in (vocabulary, *others))
        self.pad_id = int(vocabulary.pad_id)
        bos_id = self._or_none("bos_id")
        self.bos_id = self.pad_id if bos_id is None else bos_id
        self.eos_id = self._or_none("eos_id")
        self.unk_id = self._or_none("unk_id")

    def _or_none(self, name: str) -> int | None:
        """A special id; seqio says None, -1 or NotImplementedError where there is none."""
        try:
            value = getattr(self._vocabulary, name)
        except NotImplementedError:
            return None
        return None if value is None or value < 0 else int(value)

    def encode(self, text: str) -> NDArray[np.int32]:
        """See `famjax.data.vocabularies.Vocabulary`."""
        return np.array(self._vocabulary.encode(text), np.int32)

    def decode(self, ids: Ids) -> str:
        """See `famjax.data.vocabularies.Vocabulary`."""
        special = (self.pad_id, self.bos_id, self.eos_id)  # seqio's would end at the first end token
        return str(self._vocabulary.decode([int(i) for i in ids if int(i) not in special]))

    def as_seqio(self) -> seqio.Vocabulary:
        """See `famjax.data.vocabularies.Vocabulary`."""
        return self._vocabulary
