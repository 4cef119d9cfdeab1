"""A language model of bytes with random parameters, and what it says when everything is read anew for every token."""

import functools
from typing import Any

import jax
import numpy as np
from etils import epath
from numpy.typing import NDArray

from famjax.data.vocabularies import Bytes
from famjax.inference.language_model import LanguageModel
from famjax.models import transformer
from famjax.models.config import TransformerConfig
from famjax.models.transformer import Transformer
from famjax.pods.config import MeshConfig
from famjax.training.checkpoint_files import StepFolder
from small import BLOCK, params_of, vary

VOCAB = 264
LONG = 7 * BLOCK + 3
BOS = Bytes.bos_id
_PADDED = 40  # one compilation serves every length up to it


def make_model(
    batch_size: int = 1, chunk_blocks: int = 2, seed: int = 0, num_devices: int = 1, **changes: Any
) -> LanguageModel:
    """A model with blocks of 4 tokens, 2 past blocks and 3 rows of FAM, unless `changes` say otherwise.

    The output layer is a matrix of its own: with the embeddings, a random model says its last token again and again.
    """
    config = vary(**{"vocab_size": VOCAB, "tie_embeddings": False, **changes})
    return LanguageModel(
        config=config,
        params=params_of(config, seed),
        vocabulary=Bytes(),
        checkpoint=StepFolder(epath.Path("nowhere/checkpoint_0"), 0),
        trained=config,
        mesh=MeshConfig(num_devices=num_devices),
        batch_size=batch_size,
        chunk_blocks=chunk_blocks,
    )


def random_ids(length: int, seed: int = 1) -> NDArray[np.int32]:
    """Ids of bytes [length]."""
    return np.random.default_rng(seed).integers(3, 259, length).astype(np.int32)


def logprobs_from_scratch(model: LanguageModel, ids: NDArray[np.integer]) -> NDArray[np.float32]:
    """Log-probabilities of every next token [1 + n, V], the text read in one call from the initial state."""
    length = 1 + len(ids)
    tokens = np.zeros((1, -(-length // _PADDED) * _PADDED), np.int32)
    tokens[0, :length] = [BOS, *ids]
    return np.asarray(_logprobs(model.config, model.params, tokens, np.array([length], np.int32)))[0, :length]


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(config: TransformerConfig, params: Any, tokens: Any, lengths: Any) -> Any:
    model = Transformer(config)
    output = transformer.read(model, params, tokens, transformer.initial_state(model, params, 1), lengths)
    return jax.nn.log_softmax(transformer.logits(model, params, output.hidden), axis=-1)
