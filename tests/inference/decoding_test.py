"""Answers against recomputation from scratch at every token; what ends them; what is drawn."""

import dataclasses

import jax
import numpy as np
import pytest

from famjax.errors import ConfigError, NumericsError
from famjax.inference.config import SamplingConfig
from famjax.inference.decoding import TextStream
from famjax.inference.programs import BURST
from small import BLOCK
from tiny_language_model import logprobs_from_scratch, make_model, random_ids
from tolerances import FLOAT32, assert_close

GREEDY = SamplingConfig(max_new_tokens=3 * BLOCK + 2, logprobs=True, stop_at_eos=False)


@pytest.mark.parametrize("prompt_length", [0, 2, BLOCK - 1, 2 * BLOCK + 1])
@pytest.mark.parametrize("memory", [{}, {"fam_length": 0}, {"fam_position": "zero"}], ids=["fam", "bswa", "zero"])
def test_generation_equals_recomputation(memory, prompt_length):
    """Guards against a memory that is not updated, or not shifted, where a block ends within an answer."""
    model, prompt = make_model(**memory), random_ids(prompt_length)
    after, (answer,) = model.generate(model.read(model.start(), [prompt]), GREEDY)
    assert len(answer.tokens) == GREEDY.max_new_tokens
    text = prompt
    for token, logprob in zip(answer.tokens, answer.logprobs, strict=True):
        expected = logprobs_from_scratch(model, text)[-1]
        assert token == expected[: model.vocabulary.vocab_size].argmax()
        assert_close(logprob, expected[token], FLOAT32)
        text = np.append(text, token)
    assert_close(after.rows.hidden, model.read(model.start(), [text]).rows.hidden, FLOAT32)


def test_an_answer_longer_than_a_burst():
    """Guards against a burst that begins anew, or repeats its random numbers."""
    sampling = SamplingConfig(max_new_tokens=BURST + 9, temperature=1.0, seed=3, stop_at_eos=False)
    model = make_model()
    context = model.read(model.start(), [random_ids(5)])
    _, (whole,) = model.generate(context, sampling)
    decoding = model.decoding(context, sampling)
    while decoding.active:
        decoding.advance(1)
    np.testing.assert_array_equal(decoding.answers[0].finished().tokens, whole.tokens)
    assert len(whole.tokens) == BURST + 9
    assert whole.finish_reason == "length"
    assert whole.tokens[:9].tolist() != whole.tokens[BURST:].tolist()


def test_samples_depend_on_seed_and_index_alone():
    """Guards against a draw that depends on the other rows of the batch, and against equal samples."""
    sampling = SamplingConfig(max_new_tokens=9, temperature=1.0, seed=3)
    model = make_model()
    context = model.read(model.start(), [random_ids(5)])
    rows = model.select(context, [0, 0, 0])
    samplings = [sampling, sampling, dataclasses.replace(sampling, seed=4)]
    _, answers = model.generate(rows, samplings, [0, 1, 0])
    texts = [tuple(answer.tokens.tolist()) for answer in answers]
    assert len(set(texts)) == 3
    for index, text in zip((0, 1), texts[:2], strict=True):
        _, (alone,) = model.generate(context, sampling, [index])
        assert tuple(alone.tokens.tolist()) == text


def test_stop_token():
    """Guards against a stop token that is told, or read, and against a row that goes on behind it."""
    model = make_model()
    context = model.read(model.start(2), [random_ids(5), random_ids(5, seed=2)])
    _, (free, other) = model.generate(context, GREEDY)
    stop = int(free.tokens[6])
    first = free.tokens.tolist().index(stop)
    assert stop not in other.tokens
    after, (stopped, same) = model.generate(context, dataclasses.replace(GREEDY, stop_tokens=(stop,)))
    assert stopped.finish_reason == "stop"
    np.testing.assert_array_equal(stopped.tokens, free.tokens[:first])
    np.testing.assert_array_equal(same.tokens, other.tokens)
    assert after.num_tokens.tolist() == [6 + first, 6 + GREEDY.max_new_tokens]


def test_end_token_stops_unless_told_otherwise():
    """Guards against an end token that is taken for text."""
    model = make_model()
    context = model.read(model.start(), [random_ids(5)])
    _, (free,) = model.generate(context, GREEDY)
    model.vocabulary.eos_id = int(free.tokens[3])  # of this model's own vocabulary object
    first = free.tokens.tolist().index(model.vocabulary.eos_id)
    _, (stopped,) = model.generate(context, dataclasses.replace(GREEDY, stop_at_eos=True))
    assert stopped.tokens.tolist() == free.tokens[:first].tolist()
    assert stopped.finish_reason == "stop"


def test_stop_string_and_what_was_read_then():
    """Guards against a stop string in the answer, and against a context that has read behind it."""
    model = make_model(num_segments=1)
    context = model.read(model.start(2), [random_ids(5), random_ids(7, seed=2)])
    _, (free, _) = model.generate(context, GREEDY)
    stop = _printable_pair(free.tokens)
    after, (stopped, other) = model.generate(context, dataclasses.replace(GREEDY, stop_strings=("zzzz", stop)))
    end = _end_of(free.tokens, stop)
    assert stopped.finish_reason == "stop"
    assert stopped.tokens.tolist() == free.tokens[:end].tolist()
    assert stop not in stopped.text
    assert model.vocabulary.decode(free.tokens).startswith(stopped.text)
    for row, (prompt, answer) in enumerate(((random_ids(5), stopped), (random_ids(7, seed=2), other))):
        expected = model.read(model.start(), [np.concatenate([prompt, answer.tokens])])
        assert_close(after.rows.hidden[row], expected.rows.hidden[0], FLOAT32)
    assert after.num_tokens.tolist() == [6 + end, 8 + len(other.tokens)]


def _printable_pair(tokens):
    """The first two neighbouring bytes of an answer that are ASCII."""
    texts = [bytes(int(token) - 3 for token in tokens[i : i + 2]) for i in range(1, len(tokens) - 1)]
    return next(text.decode() for text in texts if text.isascii())


def _end_of(tokens, text):
    """How many tokens it takes until the text has appeared."""
    from famjax.data.vocabularies import Bytes

    return next(n for n in range(1, len(tokens) + 1) if text in Bytes().decode(tokens[:n]))


@pytest.mark.parametrize("period", [1, 3])
def test_repetition(period):
    """Guards against an answer that repeats itself to the end of its budget, or is ended for a repetition too few."""
    from famjax.data.vocabularies import Bytes
    from famjax.inference.decoding import Answer

    answer = Answer(SamplingConfig(max_new_tokens=50, max_repetitions=3), Bytes())
    said = [9, 8, *(list(range(20, 20 + period)) * 4)]
    taken = answer.extend(said, [0.0] * len(said), stopped=False)
    assert answer.finish_reason == "repetition"
    assert taken == 2 + 3 * period


def test_text_in_pieces_equals_the_text():
    """Guards against a character, or a beginning stop string, that is shown and would have to be taken back."""
    from famjax.data.vocabularies import Bytes
    from famjax.inference.decoding import Answer

    vocabulary = Bytes()
    answer = Answer(SamplingConfig(max_new_tokens=50, stop_strings=("###",)), vocabulary)
    stream, pieces = TextStream(answer), []
    for token in vocabulary.encode("né ## 漢字 ###rest"):
        answer.extend([int(token)], [0.0], stopped=False)
        pieces.append(stream.take())
    assert "".join(pieces) == "né ## 漢字 "
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert answer.finished().text == "né ## 漢字 "


def test_nothing_grows_where_rows_end_one_by_one():
    """Guards against a context of the whole batch that is kept for each row that was read beyond its answer's end."""
    model = make_model(batch_size=4)
    context = model.read(model.start(4), [random_ids(5, seed) for seed in range(4)])
    _, free = model.generate(context, dataclasses.replace(GREEDY, max_new_tokens=3 * BURST))
    stops = [_printable_pair(answer.tokens[BURST * min(row, 2) :]) for row, answer in enumerate(free)]
    samplings = [dataclasses.replace(GREEDY, max_new_tokens=3 * BURST, stop_strings=(stop,)) for stop in stops]

    def kept_bytes(keep_context):
        decoding = model.decoding(context, samplings, keep_context=keep_context)
        before = sum(array.nbytes for array in jax.live_arrays())
        while decoding.active:
            decoding.advance()
        assert any(len(answer.tokens) % BURST for answer in decoding.answers)
        return sum(array.nbytes for array in jax.live_arrays()) - before

    whole = sum(array.nbytes for array in jax.tree.leaves(context.rows))
    assert kept_bytes(keep_context=False) <= 1.1 * whole
    assert kept_bytes(keep_context=True) <= 2.2 * whole


def test_ids_beyond_the_vocabulary_are_not_drawn():
    """Guards against an id of the padded table, which the vocabulary cannot decode."""
    model = make_model()
    output = np.asarray(model.params["output"]["kernel"]).copy()
    output[:, model.vocabulary.vocab_size :] *= 50
    model = dataclasses.replace(model, params={**model.params, "output": {"kernel": output}})
    context = model.read(model.start(), [random_ids(5)])
    for sampling in (GREEDY, SamplingConfig(max_new_tokens=20, temperature=1.0)):
        _, (answer,) = model.generate(context, sampling)
        assert answer.tokens.max() < model.vocabulary.vocab_size


def test_a_model_of_no_numbers():
    """Guards against a broken model whose answers look like answers."""
    model = make_model()
    scale = np.full_like(model.params["final_norm"]["scale"], np.nan)
    broken = dataclasses.replace(model, params={**model.params, "final_norm": {"scale": scale}})
    with pytest.raises(NumericsError, match="no numbers"):
        broken.generate(broken.start(), GREEDY)
    with pytest.raises(NumericsError, match="no numbers"):
        broken.score(broken.start(), [random_ids(3)])


@pytest.mark.parametrize(
    ("token", "message"),
    [(-1, "has -1; the vocabulary's ids are 0 to 258"), (300, "has 300"), ("ab", "'ab', which is no token")],
)
def test_unknown_stop_token(token, message):
    """Guards against a stop token that can never appear, and is not told."""
    model = make_model()
    with pytest.raises(ConfigError, match=message):
        model.generate(model.start(), SamplingConfig(stop_tokens=(token,)))
