"""Settings of the task that reads instruction data. Imports nothing heavy."""

import dataclasses
import datetime as dt
from typing import Literal

from famjax.errors import ConfigError
from famjax.validation import require_at_least, require_choice, require_fraction

RecordForm = Literal["prompts", "chats"]
OnBadRecord = Literal["error", "skip"]
OnLongRecord = Literal["error", "skip", "cut"]


@dataclasses.dataclass(frozen=True)
class Instructions:
    """Prompts with their answers, packed: records follow each other in an example, as many as fit in whole.

    Files are JSON lines (.jsonl or .ndjson, also with .gz behind it) or .parquet; each record is an object. It holds a
    text to answer and its answer, as Flan has it; then the end token closes it, and belongs to the answer. Or it holds
    a conversation, which the vocabulary's chat template writes as one text; then each of the assistant's turns is an
    answer, with the token that ends it. An epoch takes every record once, and packs them anew. There is no mask between
    records: each token may attend to whatever is in its window, as in the TransformerFAM paper.

    An example ends with a task of its own: a text that asks for it, then consecutive tokens of the example once more.

    Where documents are streamed (`famjax.training.streaming_config.Streaming`) each record is one: it begins with a
    block and from the initial state, is read whole, however long, and ends with that task about itself.

    Attributes:
      paths: globs ("~" and "**" are understood) of the files.
      validation_paths: globs of the validation split's files; `paths` are then all training. Empty: the files of
        `paths` are split by a hash of their path below the glob's first wildcard.
      validation_fraction: expected share of files in the validation split, where `validation_paths` is empty.
      form: what a record holds: "prompts" (`inputs_field` and `targets_field`) or "chats" (`messages_field`).
      inputs_field: the field that holds what is to be answered.
      targets_field: the field that holds the answer.
      separator: stands between the two, and belongs to the first.
      messages_field: the field that holds a conversation, a list of objects with "role" and "content".
      date: the day, as "2024-07-26", that a chat template is told where it asks for it; None: such a template is an
        error, so that the data are the same every day.
      prompt_weight: loss weight of the tokens before an answer, whose own weight is 1.
      long_records: a record longer than the room in an example: "error" stops at it; "skip" leaves it out; "cut" cuts
        it at its end, and leaves it out where nothing of its answer remains. Both are counted. Streamed records have
        all the room they need.
      bad_records: "error" stops at a record without its fields, or that the chat template refuses; "skip" skips and
        counts it.
      repeat_length: tokens of the example, or of the streamed record, that are repeated at its end (all, where it has
        fewer); 0 repeats none. The room for records is what these and `repeat_prompt` leave of the example's length.
      repeat_weight: loss weight of the repeated tokens.
      repeat_prompt: the text before them, of weight 0.
      cache_dir: where encoded records are kept from run to run; None encodes at each start, into a temporary file.
    """

    paths: tuple[str, ...] = ()
    validation_paths: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    form: RecordForm = "prompts"
    inputs_field: str = "inputs"
    targets_field: str = "targets"
    separator: str = "\n"
    messages_field: str = "messages"
    date: str | None = None
    prompt_weight: float = 0.0
    long_records: OnLongRecord = "error"
    bad_records: OnBadRecord = "error"
    repeat_length: int = 256
    repeat_weight: float = 0.1
    repeat_prompt: str = "[repeat random segment]:"
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        require_fraction(self, "validation_fraction")
        require_at_least(self, 0, "repeat_length")
        require_at_least(self, 0.0, "prompt_weight", "repeat_weight")
        require_choice(self, "form", RecordForm)
        require_choice(self, "long_records", OnLongRecord)
        require_choice(self, "bad_records", OnBadRecord)
        if self.date is not None:
            try:
                dt.date.fromisoformat(self.date)
            except ValueError:
                raise ConfigError(f"Instructions.date = {self.date!r}; allowed: a day, as '2024-07-26'.") from None

    @property
    def now(self) -> dt.datetime | None:
        """The time that a chat template is told."""
        return None if self.date is None else dt.datetime.fromisoformat(self.date)
