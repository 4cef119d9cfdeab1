"""Prompts from JSON lines, text files or the standard input, all checked before anything slow begins."""

import contextlib
import dataclasses
import glob
import hashlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famjax.data.chat import NO_TEMPLATE
from famjax.data.chat_template import checked_messages
from famjax.data.corpus_files import where_looked
from famjax.data.json_objects import BadRecordError
from famjax.data.pieces import encode_piece
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError, DataError
from famjax.inference.config import SamplingConfig
from famjax.inference.conversations import conversation_ids, until_turn_ends
from famjax.inference.job_config import STANDARD_STREAM, InferJob
from famjax.inference.prompt_records import read_records
from famjax.inference.text_stream import encode_stream, open_bytes, read_text
from famjax.training.checkpoint_files import CHECKSUMS, candidates

_STANDARD_INPUT = "the standard input"


@dataclasses.dataclass(frozen=True, order=True)
class Start:
    """What a prompt goes on from: a document, a saved session, or nothing.

    Attributes:
      document: path of a text file, or "".
      snapshot: path of a saved session, or "".
    """

    document: str = ""
    snapshot: str = ""

    def __bool__(self) -> bool:
        return bool(self.document or self.snapshot)


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt that was checked.

    Attributes:
      index: which of the run's prompts it is, counted from 0.
      place: where it is, as "prompts.jsonl:3".
      record: its JSON object; of a text file, its path as "id".
      content: the prompt: a text, ids [n], or the path of a text file.
      start: what it goes on from.
      sampling: how it is answered; its seed is the record's own, or one that the run's seed and `index` give, so that
        prompts draw independently of each other.
    """

    index: int
    place: str
    record: Mapping[str, Any]
    content: str | NDArray[np.int32] | Path
    start: Start
    sampling: SamplingConfig

    @property
    def adapter(self) -> str:
        """Path of the checkpoint of a finetuning that answers; "": the model as it was opened."""
        return str(self.record.get("adapter", ""))

    def encode(self, vocabulary: Vocabulary) -> Iterable[NDArray[np.int32]]:
        """Ids of the prompt, in pieces; a file is read as they are taken."""
        goes_on = bool(self.start)
        match self.content:
            case Path():
                return encode_stream(vocabulary, read_text(self.content), goes_on)
            case str():
                return [encode_piece(vocabulary, self.content) if goes_on else vocabulary.encode(self.content)]
            case _:
                return [self.content]


@dataclasses.dataclass(frozen=True)
class Prompts:
    """All prompts of a run.

    Attributes:
      count: how many.
      digest: of all prompts, of the documents and sessions that they go on from, and of their adapters.
      reader: reads them from their files.
    """

    count: int
    digest: str
    reader: Callable[[], Iterator[Prompt]]

    def read(self, first: int = 0) -> Iterator[Prompt]:
        """The prompts from number `first` on, each read when it is taken."""
        return itertools.islice(self.reader(), first, None)


@contextlib.contextmanager
def open_prompts(job: InferJob, vocabulary: Vocabulary) -> Iterator[Prompts]:
    """Reads all prompts of a job once, and checks them; memory does not grow with them.

    Args:
      job: says where they are.
      vocabulary: whose ids "tokens" are.

    Raises:
      ConfigError: a record has messages, and the vocabulary no chat template.
      DataError: a file that cannot be read, a record that is none, an empty prompt; with file and line.
      CheckpointError: there is no such adapter.
    """
    with contextlib.ExitStack() as stack:
        if STANDARD_STREAM in job.patterns:
            files = {_STANDARD_INPUT: stack.enter_context(_spooled_input())}
        else:
            files = {os.fspath(path): path for path in _matches(job.patterns)}
        digest = hashlib.sha256()
        count, starts, adapters = 0, {_default_start(job)}, set()
        for prompt in _numbered(job, vocabulary, files):
            count += 1
            starts.add(prompt.start)
            adapters.add(prompt.adapter)
            _update(digest, prompt)
        if not count:
            raise DataError(f"There is no prompt in {', '.join(files)}.")
        for start in sorted(starts):
            _update_with_start(digest, start)
        for adapter in sorted(adapters - {""}):
            digest.update((candidates(adapter, '"adapter"')[0].path / CHECKSUMS).read_bytes())
        yield Prompts(count, digest.hexdigest(), lambda: _numbered(job, vocabulary, files))


@contextlib.contextmanager
def _spooled_input() -> Iterator[Path]:
    """A copy on disk of the standard input, which can be read only once."""
    stream = sys.stdin.buffer
    if stream.isatty():
        sys.stderr.write("Reading prompts from the terminal; Ctrl-D at the beginning of a line ends them.\n")
    with tempfile.NamedTemporaryFile(prefix="famjax-prompts-") as file:
        shutil.copyfileobj(stream, file)
        file.flush()
        yield Path(file.name)


def _matches(patterns: tuple[str, ...]) -> list[Path]:
    """The files of all globs in their order, each once; those of one glob sorted."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            raise DataError(f"{pattern} is a folder, not a file (InferJob.prompts); allowed: files, as '{pattern}/*'.")
        # The name of a file may look like a pattern.
        paths = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [path for path in paths if not path.is_dir()]
        if not files:
            raise DataError(f"No file matches {pattern!r} (InferJob.prompts).{where_looked(pattern)}")
        found |= dict.fromkeys(files)
    return list(found)


def _numbered(job: InferJob, vocabulary: Vocabulary, files: Mapping[str, Path]) -> Iterator[Prompt]:
    """The prompts of all files, in order."""
    if job.prompt_format == "text":
        for index, (name, path) in enumerate(files.items()):
            yield Prompt(index, name, {"id": name}, path, _default_start(job), _sampling(job, index, {}))
        return
    records = (each for name, path in files.items() for each in read_records(path, name))
    for index, (place, record) in enumerate(records):
        yield _of_record(job, vocabulary, index, place, record)


def _of_record(job: InferJob, vocabulary: Vocabulary, index: int, place: str, record: dict[str, Any]) -> Prompt:
    start = Start(record.get("document", ""), record.get("snapshot", "")) or _default_start(job)
    sampling = _sampling(job, index, record)
    if "messages" in record:
        sampling = until_turn_ends(sampling, vocabulary.chat)
        content: str | NDArray[np.int32] = _chat_ids(record["messages"], vocabulary, start, place)
    else:
        content = record["prompt"] if "prompt" in record else _checked_ids(record["tokens"], vocabulary, place)
    return Prompt(
        index=index,
        place=place,
        record=record,
        content=content,
        start=start,
        sampling=sampling,
    )


def _sampling(job: InferJob, index: int, record: Mapping[str, Any]) -> SamplingConfig:
    changes: dict[str, Any] = {name: record[name] for name in ("max_new_tokens", "seed") if name in record}
    if "stop" in record:
        changes["stop_strings"] = tuple(record["stop"])
    own_seed = int(np.random.SeedSequence((job.sampling.seed, index)).generate_state(1)[0])
    return dataclasses.replace(job.sampling, **{"seed": own_seed, **changes})


def _default_start(job: InferJob) -> Start:
    return Start(job.document or "", job.snapshot or "")


def _chat_ids(messages: Any, vocabulary: Vocabulary, start: Start, place: str) -> NDArray[np.int32]:
    """Ids of a conversation up to where the assistant is to write."""
    if vocabulary.chat is None:
        raise ConfigError(f'{place}: "messages" need a vocabulary with a chat template (VOCABULARY). {NO_TEMPLATE}')
    try:
        return conversation_ids(
            vocabulary.chat, vocabulary, checked_messages(messages, "messages"), goes_on=bool(start)
        )
    except BadRecordError as bad:
        raise DataError(f"{place}: {bad}.") from None


def _checked_ids(tokens: list[int], vocabulary: Vocabulary, place: str) -> NDArray[np.int32]:
    for position, token in enumerate(tokens):
        if not 0 <= token < vocabulary.vocab_size:
            raise DataError(
                f"{place}: an unknown token: tokens[{position}] is {token}; the vocabulary's ids are 0 to "
                f"{vocabulary.vocab_size - 1}."
            )
    return np.array(tokens, np.int32)


def _update(digest: Any, prompt: Prompt) -> None:
    """Adds a prompt to a digest. A text file is read to its end for it, and so found to be one."""
    text = _digest_text(prompt.content, prompt.place) if isinstance(prompt.content, Path) else ""
    digest.update(json.dumps([prompt.record, text]).encode())


def _update_with_start(digest: Any, start: Start) -> None:
    if start.document:
        digest.update(_digest_text(Path(start.document), start.document).encode())
    if start.snapshot:
        with open_bytes(start.snapshot) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)


def _digest_text(path: Path, name: str) -> str:
    digest, is_empty = hashlib.sha256(), True
    for piece in read_text(path):
        digest.update(piece.encode())
        is_empty = False
    if is_empty:
        raise DataError(f"{name}: an empty text: there is nothing to read.")
    return digest.hexdigest()
