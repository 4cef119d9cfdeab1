"""The small interface: a text, questions, copies, batches."""

import re
from pathlib import Path

import numpy as np
import pytest

from famjax.errors import ConfigError, DataError
from famjax.inference.config import SamplingConfig
from finetuned import MEMORY_ONLY, write_base, write_finetuning
from tiny_language_model import make_model
from tolerances import FLOAT32, assert_close

TEXT = "It was a dark and stormy night; the rain fell in torrents, née."
GREEDY = SamplingConfig(max_new_tokens=9, logprobs=True)


def _read(*texts):
    session = make_model().session()
    for text in texts:
        session.read(text)
    return session


def test_pieces_are_one_text(tmp_path):
    """Guards against text that is lost where a string, a stream or a file is cut."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    from_file = make_model().session()
    from_file.read_file(tmp_path / "text.txt")
    sessions = [_read(TEXT), _read(TEXT[:7], TEXT[7:]), _read(iter([TEXT[:9], "", TEXT[9:]])), from_file]
    answers = [session.ask("?", GREEDY) for session in sessions]
    assert {session.num_tokens for session in sessions} == {len(TEXT.encode())}
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.tokens, answers[0].tokens)
        assert_close(answer.logprobs, answers[0].logprobs, FLOAT32)


def test_a_question_leaves_no_trace():
    """Guards against a question, a sample or a score that the next question hears of."""
    session = _read(TEXT)
    first = session.ask("Who?", GREEDY)
    session.ask("What?")
    session.score("something else")
    session.sample("Why?", SamplingConfig(max_new_tokens=5, temperature=1.0, num_samples=2))
    session.copy().read("other")
    np.testing.assert_array_equal(session.ask("Who?", GREEDY).tokens, first.tokens)
    assert session.num_tokens == len(TEXT.encode())


def test_generating_goes_on():
    """Guards against an answer that the session has not read, or has read twice, when it goes on."""
    session, streamed = _read(TEXT), _read(TEXT)
    first = session.generate(GREEDY)
    assert "".join(streamed.stream(GREEDY)) == first.text
    second, also = session.generate(GREEDY), streamed.generate(GREEDY)
    whole = _read(TEXT).generate(SamplingConfig(max_new_tokens=18))
    np.testing.assert_array_equal(np.concatenate([first.tokens, second.tokens]), whole.tokens)
    np.testing.assert_array_equal(second.tokens, also.tokens)


def test_samples_differ():
    """Guards against samples that are copies of one another."""
    sampling = SamplingConfig(max_new_tokens=9, temperature=1.0, num_samples=3)
    answers = _read(TEXT).sample("Who?", sampling)
    assert len({tuple(answer.tokens.tolist()) for answer in answers}) == 3


def test_sessions_in_one_batch():
    """Guards against a batch of sessions in which one hears another's text or question."""
    sessions = [_read(TEXT), _read(TEXT, TEXT), _read("x")]
    prompts = ["Who?", "What is it?", "?"]
    together = sessions[0].model.ask_all(sessions, prompts, GREEDY)
    for session, prompt, answer in zip(sessions, prompts, together, strict=True):
        np.testing.assert_array_equal(answer.tokens, session.ask(prompt, GREEDY).tokens)


def test_nothing_to_read(tmp_path):
    """Guards against an empty prompt that is answered as if it were one."""
    session = _read(TEXT)
    (tmp_path / "empty.txt").write_text("")
    for function, empty in ((session.read, ""), (session.ask, ""), (session.score, ""), (session.read, [])):
        with pytest.raises(DataError, match="an empty text"):
            function(empty)
    with pytest.raises(DataError, match=r"empty\.txt is empty"):
        session.read_file(tmp_path / "empty.txt")
    with pytest.raises(ConfigError, match=r"num_samples = 2: a session goes on with one answer"):
        session.generate(SamplingConfig(temperature=1.0, num_samples=2))


def test_the_documented_interface(tmp_path, monkeypatch, capsys):
    """Guards against a page (docs/inference.md) whose code does not run."""
    page = (Path(__file__).parents[2] / "docs" / "inference.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    (tmp_path / "runs").mkdir()
    base = write_base(tmp_path / "runs", "fam")
    for seed, user in enumerate(("user_17", "user_18"), start=2):
        write_finetuning(tmp_path / "runs", user, base, seed, **MEMORY_ONLY)
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "inference.md", "exec"), {})  # noqa: S102 # the page is the test
    assert len(capsys.readouterr().out.splitlines()) >= 2
    assert (tmp_path / "book.snapshot").is_file()


def test_as_a_notebook_shows_them():
    """Guards against a page of parameters, and against two equal answers that cannot be compared."""
    session = _read("a text")
    assert repr(session) == "<Session of nowhere/checkpoint_0: 6 tokens read>"
    assert len(repr(session.model)) < 3000
    first, again, other = (session.ask(prompt, GREEDY) for prompt in ("who?", "who?", "what?"))
    assert first == again
    assert first != other
    assert first != "who?"


def test_one_question_for_each_session():
    """Guards against an error of Python's own where the numbers differ, or where there is nothing to ask."""
    model = make_model()
    assert model.ask_all([], []) == []
    with pytest.raises(DataError, match="1 sessions and 2 prompts"):
        model.ask_all([model.session()], ["a", "b"])
