"""What tokens and FAM look at (the paper's Figure 11): as arrays, and with `--run_mode=attention` as pictures."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from famjax.data.vocabularies import Vocabulary, make_vocabulary
from famjax.errors import CheckpointError, DataError
from famjax.inference.attention_config import AttentionJob
from famjax.inference.attention_pictures import Source, draw_history, draw_map, draw_overview
from famjax.inference.attention_reading import AttentionMap, BlockReader, FamHistory, check_choice
from famjax.inference.language_model import LanguageModel
from famjax.inference.text_stream import encode_stream, read_text

__all__ = ["AttentionMap", "FamHistory", "attention_map", "draw", "fam_history"]

Text = str | Sequence[int] | NDArray[np.integer]


def attention_map(model: LanguageModel, text: Text, layer: int, head: int, block: int = -1) -> AttentionMap:
    """What the tokens of a block, and FAM at its end, look at.

    Args:
      model: reads the text up to the block.
      text: a string, or ids without the beginning token, which is put before them.
      layer: from 0.
      head: from 0.
      block: from 0, or from the last one, -1, backwards.

    Raises:
      ConfigError: the model has no such layer or head.
      DataError: the text is empty or has no such block, or an id lies outside the vocabulary.
    """
    check_choice(model.config, (layer,), (head,))
    reader = BlockReader(model, _ids(model, text))
    reader.read_to(reader.index(block))
    return reader.look().map(layer, head)


def fam_history(model: LanguageModel, text: Text) -> FamHistory:
    """What FAM does over the full blocks of a text; for arguments and errors see `attention_map`."""
    reader = BlockReader(model, _ids(model, text))
    reader.read_full_blocks()
    return reader.history()


def draw(job: AttentionJob) -> None:
    """Draws the pictures of a job, and prints where they are.

    Raises:
      ConfigError: the model has no such layer or head, another vocabulary, or a mesh that the devices cannot form.
      DataError: the text cannot be read, is empty, or has no such block.
      CheckpointError: there is no such checkpoint, or the output folder cannot be written.
    """
    # What takes no time comes first: the text, then the folder.
    ids = _read_ids(job.text_file, make_vocabulary(job.vocabulary))
    folder = Path(job.output_dir).expanduser()
    with _written_to(job.output_dir):
        folder.mkdir(parents=True, exist_ok=True)
    for name, png in _pictures(job, ids):
        with _written_to(job.output_dir):
            (folder / name).write_bytes(png)
        sys.stdout.write(f"{folder / name}\n")
        sys.stdout.flush()


@contextlib.contextmanager
def _written_to(output_dir: str) -> Iterator[None]:
    """Tells in a user's words that the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{output_dir} cannot be written ({error.strerror or error}). Set --gin.OUTPUT_DIR to another."
        ) from error


def _pictures(job: AttentionJob, ids: NDArray[np.int32]) -> Iterator[tuple[str, bytes]]:
    """Yields (file name, PNG): of each block an overview and its maps, and FAM over all blocks."""
    model = LanguageModel.open(job.checkpoint, job.vocabulary, memory=job.memory, mesh=job.mesh, base=job.base)
    layers = tuple(range(model.config.num_layers)) if job.layers is None else job.layers
    heads = tuple(range(model.config.num_heads)) if job.heads is None else job.heads
    check_choice(model.config, layers, heads)
    reader = BlockReader(model, ids)
    source = Source("/".join(model.checkpoint.path.parts[-2:]), Path(job.text_file).name)
    for block in sorted({reader.index(block) for block in job.blocks}):
        reader.read_to(block)
        seen = reader.look()
        if len(layers) * len(heads) > 1:
            yield f"block{block}-overview.png", draw_overview(seen, layers, heads, source)
        for layer in layers:
            for head in heads:
                png = draw_map(seen.map(layer, head), model.vocabulary, source)
                yield f"block{block}-layer{layer}-head{head}.png", png
    reader.read_full_blocks()
    history = reader.history()
    if model.config.memory.fam_length and len(history.norm):
        yield "fam.png", draw_history(history, model.config.memory, source)


def _ids(model: LanguageModel, text: Text) -> NDArray[np.integer]:
    return model.vocabulary.encode(text) if isinstance(text, str) else np.asarray(text, np.int64)


def _read_ids(path: str, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Ids of a text file.

    Raises:
      DataError: it cannot be read, or is empty.
    """
    pieces = list(encode_stream(vocabulary, read_text(path)))
    if not pieces:
        raise DataError(f"{path} is empty: there is nothing to look at. Set --gin.TEXT_FILE to a text.")
    return np.concatenate(pieces)
