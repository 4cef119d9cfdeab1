"""Reading in any pieces, in rows of any lengths, against one call on the whole text."""

import numpy as np
import pytest

from famjax.errors import DataError
from famjax.inference.config import SamplingConfig
from small import BLOCK
from tiny_language_model import LONG, logprobs_from_scratch, make_model, random_ids
from tolerances import FLOAT32, assert_close

GREEDY = SamplingConfig(max_new_tokens=3 * BLOCK + 1, logprobs=True, stop_at_eos=False)
LENGTHS = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]


@pytest.mark.parametrize("memory", [{}, {"fam_length": 0}, {"num_segments": 0}], ids=["fam", "bswa", "fam_alone"])
@pytest.mark.parametrize("cut", [[LONG], [5, 9, 1, 16], [1] * LONG], ids=["whole", "odd", "tokens"])
def test_split_invariance(memory, cut):
    """Invariant 2 through the public interface. Guards against a call that forgets, or reads twice, at its ends."""
    model, ids = make_model(**memory), random_ids(LONG)
    context, first = model.start(), 0
    for size in cut:
        context = model.read(context, [ids[first : first + size]])
        first += size
    assert context.num_tokens.tolist() == [LONG + 1]
    whole, expected = model.generate(model.read(model.start(), [ids]), GREEDY)
    after, actual = model.generate(context, GREEDY)
    np.testing.assert_array_equal(actual[0].tokens, expected[0].tokens)
    assert_close(actual[0].logprobs, expected[0].logprobs, FLOAT32)
    assert_close(after.rows.hidden, whole.rows.hidden, FLOAT32)


@pytest.mark.parametrize("memory", [{}, {"fam_length": 0}], ids=["fam", "bswa"])
def test_scores_equal_one_call(memory):
    """Guards against scores that are shifted by a token, or lose one where a chunk ends."""
    model, ids = make_model(**memory), random_ids(LONG)
    expected = logprobs_from_scratch(model, ids)
    context, first, logprobs, greedy = model.start(), 0, [], []
    for size in (5, 9, 1, 16):
        context, (scores,) = model.score(context, [ids[first : first + size]])
        logprobs.append(scores.logprobs)
        greedy.append(scores.greedy)
        first += size
    assert_close(np.concatenate(logprobs), expected[np.arange(LONG), ids], FLOAT32)
    np.testing.assert_array_equal(np.concatenate(greedy), expected[:-1].argmax(-1) == ids)
    assert_close(model.read(model.start(), [ids]).rows.hidden, context.rows.hidden, FLOAT32)


def test_rows_of_different_lengths_are_alone():
    """Invariant 5. Guards against a row that reads another's tokens or padding, in reading, scoring or answering."""
    model = make_model()
    rows = [random_ids(length, seed) for seed, length in enumerate(LENGTHS)]
    more = [random_ids(length, 50 + length) for length in reversed(LENGTHS)]
    together, scores = model.score(model.read(model.start(len(rows)), rows), more)
    assert together.num_tokens.tolist() == [1 + len(a) + len(b) for a, b in zip(rows, more, strict=True)]
    _, generations = model.generate(together, GREEDY)
    for row, continuation, score, generation in zip(rows, more, scores, generations, strict=True):
        alone, (expected_score,) = model.score(model.read(model.start(), [row]), [continuation])
        assert_close(score.logprobs, expected_score.logprobs, FLOAT32)
        _, (expected,) = model.generate(alone, GREEDY)
        np.testing.assert_array_equal(generation.tokens, expected.tokens)
        assert_close(generation.logprobs, expected.logprobs, FLOAT32)


def test_a_context_is_a_value():
    """Guards against a step that changes, or gives away, the arrays of the context that it starts from."""
    model = make_model()
    context = model.read(model.start(), [random_ids(6)])
    before = np.asarray(context.rows.hidden).copy()
    first = model.generate(context, GREEDY)[1][0]
    model.read(context, [random_ids(9, seed=2)])
    assert_close(context.rows.hidden, before, FLOAT32)
    np.testing.assert_array_equal(model.generate(context, GREEDY)[1][0].tokens, first.tokens)


def test_select_and_join():
    """Guards against rows that are mixed up, in some array, where contexts are put together or taken apart."""
    model = make_model()
    texts = [random_ids(length, length) for length in (3, 9, 14)]
    contexts = [model.read(model.start(), [text]) for text in texts]
    joined = model.select(model.join(contexts), [2, 0, 0])
    assert joined.num_tokens.tolist() == [15, 4, 4]
    _, generations = model.generate(joined, GREEDY)
    for generation, index in zip(generations, [2, 0, 0], strict=True):
        expected = model.generate(contexts[index], GREEDY)[1][0]
        np.testing.assert_array_equal(generation.tokens, expected.tokens)


def test_a_stream_of_arrays_is_read_as_one_text():
    """Guards against a streamed text that is cut, or held back, where its pieces end."""
    model, ids = make_model(), random_ids(LONG)
    pieces = [ids[:1], ids[1:1], ids[1:20], ids[20:]]
    streamed = model.read(model.start(), [iter(pieces)])
    assert_close(streamed.rows.hidden, model.read(model.start(), [ids]).rows.hidden, FLOAT32)


def test_the_state_does_not_grow():
    """Guards against anything on the devices that grows with the tokens read."""
    model = make_model()
    short, long = (model.read(model.start(), [random_ids(length)]) for length in (1, 400))
    assert [leaf.shape for leaf in _leaves(short)] == [leaf.shape for leaf in _leaves(long)]


@pytest.mark.parametrize("token", [-1, 264])
def test_an_unknown_token(token):
    """Guards against an id without an embedding that is read as another one."""
    model = make_model()
    with pytest.raises(DataError, match=f"no token {token}: the model's ids are 0 to 263"):
        model.read(model.start(), [[5, token]])


def _leaves(context):
    import jax

    return jax.tree.leaves(context.rows)
