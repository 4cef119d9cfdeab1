"""Settings of the tasks of RULER (arXiv 2404.06654; NVIDIA/RULER, scripts/synthetic.yaml). Imports nothing heavy."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from famjax.data.questions.question_config import QuestionTask, require_task_names
from famjax.errors import ConfigError
from famjax.validation import require_above, require_at_least, require_choice, require_fraction

Haystack = Literal["noise", "essay", "needle"]
NoiseOrEssay = Literal["noise", "essay"]
NeedleType = Literal["words", "numbers", "uuids"]


@dataclasses.dataclass(frozen=True)
class RulerTask(QuestionTask):
    """What the tasks of RULER have in common.

    Attributes:
      max_new_tokens: budget of the answer, in tokens; None: RULER's. Where the right answer needs more, that.
    """

    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "max_new_tokens")


@dataclasses.dataclass(frozen=True)
class RulerNeedle(RulerTask):
    """RULER's needles in a haystack: values hidden under keys in text, and a question about some of the keys.

    Attributes:
      haystack: what the needles are hidden in. "noise": the landmark sentences, repeated; "essay": real text; "needle":
        further needles, with other keys.
      key_type: "words" (adjective-noun), "numbers" (7 digits) or "uuids".
      value_type: as `key_type`.
      num_keys: keys hidden, those that are asked for included; at least `num_queries` are.
      num_values: values of each key.
      num_queries: keys that are asked for.
      depth: where the needles that are asked for lie, 0 (before the haystack) to 1 (after it); None: at drawn places,
        as in RULER, and as the others always do.
      documents: the task of type Documents that real text comes from.
    """

    haystack: Haystack = "essay"
    key_type: NeedleType = "words"
    value_type: NeedleType = "numbers"
    num_keys: int = 1
    num_values: int = 1
    num_queries: int = 1
    depth: float | None = None
    documents: str = "documents"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "haystack", Haystack)
        require_choice(self, "key_type", NeedleType)
        require_choice(self, "value_type", NeedleType)
        require_at_least(self, 1, "num_keys", "num_values", "num_queries")
        require_fraction(self, "depth")
        require_task_names(self, "documents", (self.documents,))
        if self.num_needles > MOST_NEEDLES:
            raise ConfigError(
                f"RulerNeedle.num_keys and num_queries ask for {self.num_needles} needles with num_values; allowed: "
                f"{MOST_NEEDLES}, as many as RULER has depths."
            )

    @property
    def num_needles(self) -> int:
        """Needles that are hidden, those of a haystack of needles aside."""
        return max(self.num_keys, self.num_queries) * self.num_values


MOST_NEEDLES = 40


@dataclasses.dataclass(frozen=True)
class RulerVariableTracking(RulerTask):
    """RULER's variable tracking (vt): chains of assignments in text; which variables have the value of the first?

    Attributes:
      haystack: "noise" or "essay", as of `RulerNeedle`.
      num_chains: chains, of which one is asked for.
      num_hops: assignments of a chain after its first.
      example: whether a short solved example stands before the question, as in RULER.
      documents: the task of type Documents that real text comes from.
    """

    haystack: NoiseOrEssay = "noise"
    num_chains: int = 1
    num_hops: int = 4
    example: bool = True
    documents: str = "documents"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "haystack", NoiseOrEssay)
        require_at_least(self, 1, "num_chains", "num_hops")
        require_task_names(self, "documents", (self.documents,))
        if self.num_chains * (self.num_hops + 1) > MOST_NEEDLES:
            raise ConfigError(
                f"RulerVariableTracking.num_chains and num_hops ask for {self.num_chains * (self.num_hops + 1)} "
                f"assignments; allowed: {MOST_NEEDLES}, as many as RULER has depths."
            )


@dataclasses.dataclass(frozen=True)
class RulerCommonWords(RulerTask):
    """RULER's common words extraction (cwe): a numbered list of words; which come most often?

    Attributes:
      num_common: words that come most often, all of which are asked for.
      common_repeats: how often each of them comes; None, with `uncommon_repeats`: as in RULER 30 and 3 where the length
        is 4096 tokens or more, and has room for that, otherwise its 6 and 1 of short lists.
      uncommon_repeats: how often each of the other words comes.
      example: whether a short solved example stands before the question, as in RULER.
    """

    num_common: int = 10
    common_repeats: int | None = None
    uncommon_repeats: int | None = None
    example: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "num_common", "common_repeats", "uncommon_repeats")
        common, uncommon = self.common_repeats, self.uncommon_repeats
        if (common is None) != (uncommon is None) or (common and uncommon and common <= uncommon):
            raise ConfigError(
                f"RulerCommonWords.common_repeats = {common!r} with uncommon_repeats = {uncommon!r}; allowed: "
                "both None, or the first above the second."
            )


@dataclasses.dataclass(frozen=True)
class RulerFrequentWords(RulerTask):
    """RULER's frequent words extraction (fwe): coded words, Zipf distributed; which three come most often?

    Attributes:
      alpha: exponent of the distribution; the larger, the clearer the answer.
      word_length: letters of a coded word.
      num_words: distinct coded words; None: one for each 50 tokens of the length, as in RULER.
    """

    alpha: float = 2.0
    word_length: int = 6
    num_words: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 1.0, "alpha")
        require_at_least(self, 3, "word_length")
        require_at_least(self, 5, "num_words")


Ruler = RulerNeedle | RulerVariableTracking | RulerCommonWords | RulerFrequentWords

# The names of scripts/synthetic.yaml, with its settings.
BUILT_IN_TASKS: Mapping[str, Ruler] = {
    "ruler_niah_single_1": RulerNeedle(haystack="noise"),
    "ruler_niah_single_2": RulerNeedle(),
    "ruler_niah_single_3": RulerNeedle(value_type="uuids"),
    "ruler_niah_multikey_1": RulerNeedle(num_keys=4),
    "ruler_niah_multikey_2": RulerNeedle(haystack="needle"),
    "ruler_niah_multikey_3": RulerNeedle(haystack="needle", key_type="uuids", value_type="uuids"),
    "ruler_niah_multivalue": RulerNeedle(num_values=4),
    "ruler_niah_multiquery": RulerNeedle(num_queries=4),
    "ruler_vt": RulerVariableTracking(),
    "ruler_cwe": RulerCommonWords(),
    "ruler_fwe": RulerFrequentWords(),
}
