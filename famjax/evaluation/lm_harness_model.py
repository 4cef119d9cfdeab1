"""famjax as a model of lm-evaluation-harness: reads any length, never cuts a prompt. Needs lm-eval."""

import collections
import dataclasses
import datetime as dt
import itertools
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import simple_parse_args_string
from numpy.typing import NDArray
from tqdm import tqdm

from famjax.data.chat_template import ChatTemplate, checked_messages
from famjax.data.json_objects import BadRecordError
from famjax.errors import ConfigError, DataError
from famjax.evaluation.lm_harness_arguments import parse_model_args, sampling_config
from famjax.inference.config import SamplingConfig
from famjax.inference.conversations import until_turn_ends, without_beginning
from famjax.inference.language_model import LanguageModel
from famjax.inference.reading import TokenScores
from famjax.inference.requests import generate, score_continuations, score_documents
from famjax.training.restore import find_checkpoint

# Context and continuation as text, then the tokens of each: what the harness hands to `_loglikelihood_tokens`.
Pair = tuple[tuple[str, str], list[int], list[int]]
_APPLY = "--apply_chat_template"


class FamjaxLM(TemplateLM):
    """The three questions of the harness, asked of a LanguageModel.

    The beginning token stands before every text, also before an empty one. A prompt is read whole, however long. Where
    the vocabulary has a chat template, special tokens that are written out in a text are these tokens, and an answer
    ends with the turn.
    """

    def __init__(self, model: LanguageModel, seed: int = 0) -> None:
        """Takes an open model, and the seed of drawn answers."""
        super().__init__()
        self.model = model
        self.seed = seed
        self.num_prompt_tokens = 0  # of all requests so far, without beginning tokens
        self.num_generated_tokens = 0

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "FamjaxLM":
        """Opens a checkpoint as --model_args say; in them batch_size comes before the harness's own --batch_size.

        Raises:
          ConfigError, CheckpointError, DataError: see `parse_model_args` and `LanguageModel.open`.
        """
        of_harness = {name: value for name, value in (additional_config or {}).items() if value is not None}
        # The harness names a device of its own, "cuda:0", where the user names none. JAX chooses it.
        of_harness.pop("device", None)
        args = parse_model_args({**of_harness, **arg_dict})
        model = LanguageModel.open(
            find_checkpoint(args.checkpoint, setting="--model_args checkpoint=..."),
            base=args.base,
            vocabulary=args.vocabulary_config,
            memory=args.memory,
            batch_size=args.batch_size,
            chunk_blocks=args.chunk_blocks,
        )
        return cls(model, args.seed)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> "FamjaxLM":
        """The same from "checkpoint=...,block_size=64"."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int | None:
        """The vocabulary's end token."""
        return self.model.vocabulary.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The beginning token."""
        return self.model.vocabulary.bos_id

    @property
    def tokenizer_name(self) -> str:
        """Marks prepared requests as this vocabulary's."""
        return self.model.vocabulary.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The source of the chat template, which the harness writes beside its results; "" where none is asked for.

        Raises:
          ConfigError: the vocabulary has none, or one is asked for by a name.
        """
        if not chat_template:
            return ""
        template = self._template()
        if isinstance(chat_template, str):
            raise ConfigError(
                f"{_APPLY} {chat_template}: a vocabulary has one chat template, without a name; leave it out. "
                "--model_args chat_template=FILE takes another one."
            )
        return template.source

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one text: up to where the assistant is to write, or up to the end of its last message.

        Raises:
          ConfigError: the vocabulary has no chat template.
          DataError: the template does not fit the conversation.
        """
        template = self._template()
        write = template.prompt if add_generation_prompt else template.unfinished
        try:
            return write(checked_messages(chat_history, "messages"), dt.datetime.now())
        except BadRecordError as bad:
            raise DataError(f"{_APPLY}: {bad}.") from None

    def _template(self) -> ChatTemplate:
        chat = self.model.vocabulary.chat
        if chat is None:
            raise ConfigError(
                f"{_APPLY} needs a vocabulary with a chat template: chat_template.jinja, or in tokenizer_config.json, "
                "beside the file that --model_args vocabulary=... names; or chat_template=FILE there."
            )
        return chat.template

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the results: which parameters, and with which memory they were read."""
        return {
            "model_num_parameters": sum(leaf.size for leaf in jax.tree.leaves(self.model.params)),
            "checkpoint": str(self.model.checkpoint.path),
            "step": self.model.checkpoint.step,
            "model_sha": self.model.fingerprint,
            "memory": dataclasses.asdict(self.model.config.memory),
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, without the beginning token, which the model reads before every text."""
        del add_special_tokens
        return self._encode(string).tolist()

    def _encode(self, text: str) -> NDArray[np.int32]:
        vocabulary = self.model.vocabulary
        if vocabulary.chat is None:
            return vocabulary.encode(text)
        return without_beginning(vocabulary.chat.ids(text), vocabulary)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would give it."""
        pairs: list[Pair] = []
        for context, continuation in (request.args for request in requests):
            tokens = self._encode_pair(context, continuation) if context else ([], self.tok_encode(continuation))
            pairs.append(((context, continuation), *tokens))
        return self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: list[Pair], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Reads each context once, however many continuations it has."""
        by_context: dict[bytes, list[int]] = collections.defaultdict(list)
        for index, (_, context, _) in enumerate(requests):
            by_context[_ids(context).tobytes()].append(index)
        groups = list(by_context.values())
        prompts = [_ids(requests[indices[0]][1]) for indices in groups]
        self.num_prompt_tokens += sum(map(len, prompts))
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with tqdm(total=len(requests), desc="Running loglikelihood requests", disable=disable_tqdm) as progress:
            order = _longest_first(prompts)
            continuations = [[_ids(requests[index][2]) for index in groups[place]] for place in order]
            found = score_continuations(self.model, [prompts[place] for place in order], continuations)
            scores = itertools.chain.from_iterable(found)
            for index, score in zip((index for place in order for index in groups[place]), scores, strict=True):
                results[index] = (_total(score), bool(np.all(score.greedy)))
                self.cache_hook.add_partial("loglikelihood", requests[index][0], results[index])
                progress.update()
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text, from the beginning token on, in one pass that carries the memory."""
        documents = [self._encode(request.args[0]) for request in requests]
        order = _longest_first(documents)
        results = [0.0] * len(requests)
        with tqdm(total=len(requests), desc="Running loglikelihood_rolling requests", disable=disable_tqdm) as progress:
            scores = score_documents(self.model, [documents[index] for index in order])
            for index, score in zip(order, scores, strict=True):
                results[index] = _total(score)
                self.num_prompt_tokens += len(documents[index])
                self.cache_hook.add_partial("loglikelihood_rolling", requests[index].args, results[index])
                progress.update()
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer to each prompt, without the text that stopped it."""
        prompts = [self._encode(request.args[0]) for request in requests]
        samplings = self._samplings(requests)
        order = _longest_first(prompts)
        results = [""] * len(requests)
        with tqdm(total=len(requests), desc="Running generate_until requests", disable=disable_tqdm) as progress:
            answers = generate(self.model, [prompts[index] for index in order], [samplings[index] for index in order])
            for index, (answer,) in zip(order, answers, strict=True):
                results[index] = answer.text
                self.num_prompt_tokens += len(prompts[index])
                self.num_generated_tokens += len(answer.tokens)
                self.cache_hook.add_partial("generate_until", requests[index].args, answer.text)
                progress.update()
        return results

    def _samplings(self, requests: list[Instance]) -> list[SamplingConfig]:
        """How each answer is drawn; a request that the harness repeats gets a seed of its own each time."""
        seen: collections.Counter[str] = collections.Counter()
        samplings = []
        for request in requests:
            sampling = until_turn_ends(sampling_config(request.args[1], self.seed), self.model.vocabulary.chat)
            key = json.dumps(request.args[:2], sort_keys=True)
            samplings.append(dataclasses.replace(sampling, seed=sampling.seed + seen[key]))
            seen[key] += 1
        return samplings


def _ids(tokens: list[int]) -> NDArray[np.int32]:
    return np.asarray(tokens, np.int32)


def _total(scores: TokenScores) -> float:
    return float(np.sum(scores.logprobs, dtype=np.float64))


def _longest_first(rows: Sequence[Any]) -> list[int]:
    """Indices of the rows, so that those of a batch are about as long, and what needs most memory comes first."""
    return sorted(range(len(rows)), key=lambda index: -len(rows[index]))
