"""famjax.inference.interactive: a session typed into a pipe."""

import dataclasses
import datetime as dt
import io
import sys

import pytest

from famjax.data.config import HuggingFaceVocabulary
from famjax.data.vocabularies import make_vocabulary
from famjax.errors import CheckpointError, DataError
from famjax.inference import interactive as module
from famjax.inference.config import SamplingConfig
from famjax.inference.interactive import converse
from famjax.inference.job_config import InferJob
from famjax.inference.session import Session
from tiny_language_model import make_model
from vocabulary_files import train_chat_tokenizer

SAMPLING = SamplingConfig(max_new_tokens=5, stop_at_eos=False)
TEXT = "A text about grass. " * 3


@pytest.fixture(scope="module")
def model():
    """A model of bytes with random parameters."""
    return make_model()


@pytest.fixture
def document(tmp_path):
    """A text file."""
    path = tmp_path / "document.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def printed(model, monkeypatch, capsys):
    """Runs a session of typed lines; returns its standard output (out) and error (err)."""

    def run(*lines, model=model, **changes):
        text = "".join(f"{line}\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        converse(model, InferJob("run", **{"interactive": True, "sampling": SAMPLING, **changes}))
        return capsys.readouterr()

    return run


@pytest.fixture
def typed(printed):
    """Runs a session of typed lines; returns what it answers, which is all that it prints on its standard output."""
    return lambda *lines, **changes: printed(*lines, **changes).out


def answers(model, *questions, before="", keep=False, sampling=SAMPLING):
    """What a session says, a line for each question."""
    session = model.session()
    if before:
        session.read(before)
    said = []
    for question in questions:
        if keep:
            session.read(question)
            said.append(session.generate(sampling).text + "\n")
        else:
            said.append(session.ask(question, sampling).text + "\n")
    return "".join(said)


def test_questions_do_not_disturb_each_other(model, typed, document):
    """Guards against a question that is answered behind the one before it."""
    expected = answers(model, "who?", " what", "who?", before=TEXT)
    assert typed("who?", " what", "", "who?", document=str(document)) == expected
    assert typed(f"/read {document}", "who?", " what", "who?", "/quit", "who?") == expected
    assert expected.splitlines(keepends=True)[0] != answers(model, "who?")


def test_a_conversation_that_goes_on(model, typed):
    """Guards against "/keep on" that forgets the answers, and "/keep off" and "/reset" that do not."""
    kept = answers(model, "one", "two", keep=True)
    assert kept != answers(model, "one", "two")
    assert typed("/keep on", "one", "two") == kept
    assert typed("/keep on", "one", "two", "/reset", "one", "two") == kept * 2
    said = typed("/keep on", "one", "/keep off", "two", "two")
    session = model.session()
    session.read("one")
    assert said == session.generate(SAMPLING).text + "\n" + 2 * (session.ask("two", SAMPLING).text + "\n")


def test_save_and_load(model, typed, document, tmp_path):
    """Guards against a file without what was read."""
    saved = tmp_path / "session.npz"
    expected = answers(model, "who?", before=TEXT)
    assert typed("/save " + str(saved), document=str(document)) == ""
    assert typed(f"/load {saved}", "who?") == expected
    assert typed("who?", snapshot=str(saved)) == expected


def test_settings(model, printed):
    """Guards against settings that are taken and not used."""
    two = SamplingConfig(max_new_tokens=2, temperature=1.5, seed=4, stop_at_eos=False)
    session = printed("/set max_new_tokens 2", "/set temperature 1.5", "/set seed 4", "who?", "/status")
    expected = answers(model, "who?", sampling=two)
    assert session.out == expected
    assert "0 tokens read; keep off; questions as they are; max_new_tokens 2, temperature 1.5" in session.err
    assert expected != answers(model, "who?")[: len(expected)]


def test_the_form_of_a_question(model, typed):
    """Guards against a form that is not read, or read in place of the question."""
    assert typed("who?", question_format="Q: {question}\nA:") == answers(model, "Q: who?\nA:")


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A model with random parameters, whose vocabulary has a chat template."""
    path = train_chat_tokenizer(tmp_path_factory.mktemp("vocabulary"), "headers")
    vocabulary = make_vocabulary(HuggingFaceVocabulary(path))
    return dataclasses.replace(make_model(vocab_size=vocabulary.vocab_size), vocabulary=vocabulary)


def say(session, ids):
    """What a session says behind some ids, as the standard output has it; it has read all of it then."""
    session.read_tokens(ids)
    ends = (session.model.vocabulary.chat.turn_end,)
    return session.generate(dataclasses.replace(SAMPLING, stop_tokens=ends)).text + "\n"


def test_questions_by_the_chat_template(chat_model, printed, document):
    """Guards against a chat model that is asked without its template, or with the beginning token doubled or lost."""
    chat, now = chat_model.vocabulary.chat, dt.datetime.now()
    asked = chat.prompt([{"role": "user", "content": "who?"}], now)
    session = printed("who?", "who?", "/status", model=chat_model)
    assert session.out == say(chat_model.session(), asked[1:]) * 2
    assert "questions by the chat template" in session.err
    behind = chat_model.session()
    behind.read(TEXT)
    assert printed("who?", document=str(document), model=chat_model).out == say(behind, asked)
    plain = printed("who?", question_format="{question}", model=chat_model).out
    assert plain == answers(chat_model, "who?")
    assert plain != say(chat_model.session(), asked[1:])


def test_a_conversation_by_the_chat_template(chat_model, printed, document, monkeypatch):
    """Guards against turns that are not ended, or begin the conversation anew; and one that goes on behind a reset."""
    chat, now, session = chat_model.vocabulary.chat, dt.datetime.now(), chat_model.session()
    asked = chat.prompt([{"role": "user", "content": "one"}], now)[1:]
    first = say(session, asked)
    kept = session.copy()
    second = say(session, chat.next_turn("two", now))
    third = say(session.copy(), chat.next_turn("three", now))
    kept.read_tokens(chat_model.vocabulary.encode(TEXT))
    begun = chat.prompt([{"role": "user", "content": "two"}], now)
    anew = say(kept, begun)
    # A random model may say the same behind other ids.
    read, read_tokens = [], Session.read_tokens
    monkeypatch.setattr(Session, "read_tokens", lambda self, ids: read.append(ids.tolist()) or read_tokens(self, ids))
    typed = ("/keep on", "one", "two", "/keep off", "three", "three", "/reset", "one")
    assert printed(*typed, model=chat_model).out == first + second + third * 2 + first
    two, three = (chat.next_turn(question, now).tolist() for question in ("two", "three"))
    assert read == [asked.tolist(), two, three, three, asked.tolist()]
    read.clear()
    assert printed("/keep on", "one", f"/read {document}", "two", model=chat_model).out == first + anew
    assert read == [asked.tolist(), begun.tolist()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/raed a.txt", "There is no command /raed; allowed: /read, "),
        ("/read", "/read FILE: the file is missing"),
        ("/save", "/save FILE: the file is missing"),
        ("/load", "/load FILE: the file is missing"),
        ("/read nowhere.txt", "nowhere.txt cannot be read: No such file"),
        ("/load nowhere.npz", "nowhere.npz: there is no such snapshot"),
        ("/keep maybe", "/keep 'maybe'; allowed: on, off"),
        ("/set temprature 1", "there is no 'temprature'; allowed: max_new_tokens, temperature"),
        ("/set num_samples 2", "there is no 'num_samples'"),
        ("/set max_new_tokens many", "/set max_new_tokens many: the value is not an int"),
        ("/set top_p 1.5", "SamplingConfig.top_p = 1.5; allowed: 0 to 1"),
        ("/set stop_tokens [300]", "SamplingConfig.stop_tokens has 300; the vocabulary's ids are 0 to 258"),
    ],
)
def test_mistakes_are_told_and_change_nothing(model, printed, line, message):
    """Guards against a session that a misspelled word ends, and against its error among a pipe's answers."""
    session = printed(line, "who?")
    assert message in session.err
    assert session.out == answers(model, "who?")


def test_files_that_are_no_text(model, printed, tmp_path):
    """Guards against half a file that stays read behind its bad byte."""
    (tmp_path / "latin.txt").write_bytes(b"d\xeda")
    (tmp_path / "empty.txt").write_text("")
    files = [str(tmp_path / name) for name in ("latin.txt", "empty.txt", "a\0b.txt")]
    session = printed(*(f"/read {file}" for file in files), "who?")
    assert "latin.txt: byte 1, 0xed, is not UTF-8" in session.err
    assert "empty.txt is empty" in session.err
    assert "b.txt' is no path: it has a null character" in session.err
    assert session.out == answers(model, "who?")


def test_a_bad_beginning_ends_it(typed, tmp_path):
    """Guards against answers about a document that was not read."""
    with pytest.raises(DataError, match="cannot be read"):
        typed("who?", document=str(tmp_path / "nowhere.txt"))
    with pytest.raises(CheckpointError, match="no such snapshot"):
        typed("who?", snapshot=str(tmp_path / "nowhere.npz"))


def test_input_that_is_not_utf8(model, monkeypatch):
    """Guards against a traceback, and against bytes that are read as something else."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"d\xeda\n"), encoding="utf-8"))
    with pytest.raises(DataError, match="The standard input is not UTF-8"):
        converse(model, InferJob("run", interactive=True))
    # As Python reads it in the C locale.
    stdin = io.TextIOWrapper(io.BytesIO(b"d\xeda\n"), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", stdin)
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    converse(model, InferJob("run", interactive=True))
    assert said.getvalue() == "What was typed is not UTF-8, from character 1 on.\n"


def test_ctrl_c_stops_the_answer_alone(model, typed, monkeypatch):
    """Guards against a session that ends with Ctrl-C, and one that has lost, or doubled, what was said until then."""
    real = module._Conversation._print
    printed = []

    def interrupted(self, text):
        real(self, text)
        printed.append(text)
        if len(printed) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module._Conversation, "_print", interrupted)
    said = typed("/keep on", "who?", "/keep off", "and?")
    first = answers(model, "who?", sampling=SamplingConfig(max_new_tokens=3, stop_at_eos=False))
    session = model.session()
    session.read("who?")
    session.generate(SamplingConfig(max_new_tokens=3, stop_at_eos=False))
    assert said == first + session.ask("and?", SAMPLING).text + "\n"


def test_ctrl_c_stops_reading(model, typed, document, monkeypatch):
    """Guards against a file that stays half read."""

    def pieces(path):
        yield TEXT
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "read_text", pieces)
    assert typed(f"/read {document}", "who?") == answers(model, "who?")


def test_help_names_every_command(printed):
    """Guards against a command that nobody finds."""
    told = printed("/help").err
    commands = printed("/").err.partition("allowed: ")[2].removesuffix(".\n").split(", ")
    assert len(commands) == 10
    assert all(name in told for name in commands if name != "/help")


def test_a_terminal_gets_no_commands(model, capsys):
    """Guards against an answer that moves the cursor, clears the screen, or renames the window."""
    conversation = module._Conversation(model, InferJob("run", interactive=True))
    text = "a\x1b[2Jb\n\tc\x9bd\x08\u00ed"
    conversation._print(text)
    assert capsys.readouterr().out == text
    conversation._is_terminal = True
    conversation._print(text)
    assert capsys.readouterr().out == "a\ufffd[2Jb\n\tc\ufffdd\ufffd\u00ed"
