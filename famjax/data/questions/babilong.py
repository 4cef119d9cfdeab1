"""The tasks `babilong_qa1` to `babilong_qa5`: BABILong (arXiv 2406.10149), a story's facts hidden in real text."""

import functools
from collections.abc import Sequence

import numpy as np

from famjax.data.corpus import Corpus
from famjax.data.examples import Reading
from famjax.data.pieces import encode_piece
from famjax.data.questions.babi import Story, all_facts, draw_stories
from famjax.data.questions.babilong_answers import references
from famjax.data.questions.babilong_config import Babilong
from famjax.data.questions.babilong_prompts import FOOTER, PROMPTS, header
from famjax.data.questions.background import Background, make_sentence, needed_tokens, place_at
from famjax.data.questions.question import Question
from famjax.data.questions.templates import Asked, TemplateQuestions

# Sentences that a story is allowed at least: among those, most stories of the task have a question.
_LEAST_FACTS = {"qa1": 2, "qa2": 12, "qa3": 12, "qa4": 2, "qa5": 12}
_PROBES = 2


class BabilongQuestions(TemplateQuestions):
    """Questions of `Babilong`.

    Attributes:
      corpus: where the text comes from.
    """

    metrics: tuple[str, ...] = ("babilong",)

    def __init__(self, config: Babilong, reading: Reading) -> None:
        """Opens the corpus; ConfigError, DataError as `Background`, ConfigError for too short a length."""
        self._config, self._vocabulary = config, reading.vocabulary
        before = header(PROMPTS[config.babi_task], config.instruction, config.examples, config.post_prompt)
        self._header = reading.vocabulary.encode(before)
        super().__init__(config, reading)
        self._background = Background("Babilong.documents", config.documents, reading)
        self.corpus: Corpus = self._background.corpus

    @functools.cached_property
    def _longest_fact(self) -> int:
        """Tokens of the longest sentence of a story."""
        return max(len(make_sentence(self._vocabulary, fact).ids) for fact in all_facts(self._config.babi_task))

    @functools.cached_property
    def _frame(self) -> int:
        """Tokens of all but the text, at most or nearly."""
        random = np.random.default_rng(0)
        stories = [story for _ in range(_PROBES) for story in draw_stories(random, self._config.babi_task)]
        return len(self._header) + max(self._footer_and_budget(story) for story in stories)

    def _footer_and_budget(self, story: Story) -> int:
        footer = encode_piece(self._vocabulary, FOOTER.format(question=story.question))
        return len(footer) + self._budget(f"Answer: {story.statement}", "\n", self._config.max_new_tokens)

    def _least_length(self) -> int:
        # One more: the first sentence has no blank before it, which may cost a token or two.
        return self._frame + (_LEAST_FACTS[self._config.babi_task] + 1) * self._longest_fact

    def _ask(self, random: np.random.Generator, length: int) -> Asked:
        config = self._config
        story = self._story(random, (length - self._frame) // self._longest_fact - 1)
        answer = f"Answer: {story.statement}"
        budget = self._budget(answer, "\n", config.max_new_tokens)
        footer = encode_piece(self._vocabulary, FOOTER.format(question=story.question))
        room = length - budget - len(self._header) - len(footer)
        self._require_room(length - room + needed_tokens(self._vocabulary, story.facts), length)
        order = sorted(random.random(len(story.facts)))

        def placing(sizes: Sequence[int]) -> list[int]:
            if config.depth is None:
                return [int(drawn * (len(sizes) + 1)) for drawn in order]
            return [place_at(config.depth, sizes)] * len(order)

        context = self._background.hide(random, story.facts, placing, room)
        prompt = np.concatenate([self._header, context, footer])
        right = references(config.babi_task, story.question, story.answer)
        return Asked(Question(prompt, right, budget), answer, separator="\n")

    def _story(self, random: np.random.Generator, room: int) -> Story:
        """Draws a story of at most so many sentences."""
        config = self._config
        most = room if config.max_facts is None else min(room, config.max_facts)
        while True:
            stories = [story for story in draw_stories(random, config.babi_task) if len(story.facts) <= most]
            if stories:
                return stories[int(random.integers(len(stories)))]
