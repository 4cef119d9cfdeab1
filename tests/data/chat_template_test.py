"""Tests of famjax.data.chat_template."""

import datetime as dt

import pytest

from famjax.data.chat_template import ChatTemplate, checked_messages
from famjax.data.json_objects import BadRecordError
from famjax.errors import ConfigError, DataError
from vocabulary_files import CHATML, CHATML_SPECIAL, CHATML_TOKENS, HEADERS, HEADERS_SPECIAL, HEADERS_TOKENS

NOW = dt.datetime(2024, 7, 26)
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi "},
    {"role": "assistant", "content": " Hello. "},
    {"role": "user", "content": "Bye?"},
    {"role": "assistant", "content": "Good bye!"},
]


def template(source, special=None, ends=()):
    """A template from its source."""
    return ChatTemplate(source, "a.jinja", special or {}, ends)


def chatml():
    """The ChatML-like template."""
    return template(CHATML, CHATML_TOKENS, CHATML_SPECIAL)


def headers():
    """The template with headers."""
    return template(HEADERS, HEADERS_TOKENS, HEADERS_SPECIAL)


def parts(rendered):
    """The texts of the assistant's turns."""
    return [rendered.text[begin:end] for begin, end in rendered.spans]


def test_chatml():
    """Guards against another text than the template's, and turns without their end or with the line end behind it."""
    rendered = chatml().conversation(CHAT, None)
    assert rendered.text == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n"
        "<|im_start|>assistant\n Hello. <|im_end|>\n<|im_start|>user\nBye?<|im_end|>\n"
        "<|im_start|>assistant\nGood bye!<|im_end|>\n"
    )
    assert parts(rendered) == [" Hello. <|im_end|>", "Good bye!<|im_end|>"]
    assert chatml().prompt(CHAT[:2], NOW) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>assistant\n"
    )


def test_headers():
    """Guards against a template with a beginning token, and one that changes what a message says."""
    rendered = headers().conversation(CHAT, None)
    assert rendered.text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe short.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nGood bye!<|eot_id|>"
    )
    assert parts(rendered) == ["Hello.<|eot_id|>", "Good bye!<|eot_id|>"]


def test_a_turn_without_an_end_token_goes_to_its_end():
    """Guards against a cut turn where a template ends turns with text."""
    plain = template(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert parts(plain.conversation(CHAT, None)) == [" Hello. \n\n", "Good bye!\n\n"]


def test_what_a_template_marks_as_generated():
    """Guards against marks in the text, and against turns that are found otherwise than a template marks them."""
    marked = template(
        "{% for m in messages %}[{% if m.role == 'assistant' %}{% generation %}{{ m.content }}!{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}]{% endfor %}"
    )
    rendered = marked.conversation(CHAT[1:], None)
    assert rendered.text == "[Hi ][ Hello. !][Bye?][Good bye!!]"
    assert parts(rendered) == [" Hello. !", "Good bye!!"]
    assert marked.prompt(CHAT[1:], NOW) == rendered.text


def test_turns_that_cannot_be_told_apart():
    """Guards against weights on the wrong tokens where a template writes earlier turns otherwise than the last."""
    changing = template(
        "{% for m in messages %}{{ m.role }}:{{ m.content if loop.last else m.content | upper }};{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(BadRecordError, match=r"message 3: .*a\.jinja.*\{% generation %\}") as caught:
        changing.conversation(CHAT, None)
    assert caught.value.kind == "template_error"


def test_as_transformers_renders():
    """Guards against Jinja's own defaults: HTML in JSON, blank lines of statements, and no loop controls."""
    source = (
        "{% for m in messages %}\n"
        "    {% if m.role == 'user' %}\n"
        "{{ m | tojson }}\n"
        "        {% break %}\n"
        "    {% endif %}\n"
        "{% endfor %}\n"
        "{{ strftime_now('%d %b %Y') }}{{ tools is none }}{{ eos_token }}"
    )
    text = template(source, {"eos_token": "</s>"}).prompt([{"role": "user", "content": "<ä>"}], NOW)
    assert text == '{"role": "user", "content": "<ä>"}\n26 Jul 2024True</s>'


def test_the_day_does_not_change_data():
    """Guards against training data that differ from day to day."""
    source = "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ConfigError, match=r"a\.jinja asks for the date; .*--gin\.Instructions\.date="):
        template(source).conversation(CHAT, None)
    assert template(source).conversation(CHAT[:1], NOW).text.startswith("2024")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('only users') }}", "only users"),
        ("{{ messages[9].content }}", "no element 9"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_fails(source, reason):
    """Guards against a traceback where a template refuses a conversation, and one that changes it or escapes."""
    with pytest.raises(BadRecordError, match=rf"the chat template a\.jinja fails: .*{reason}") as caught:
        template(source).prompt(CHAT, NOW)
    assert caught.value.kind == "template_error"


def test_a_mistake_in_a_template():
    """Guards against a damaged template that is noticed at the first record, or not at all."""
    with pytest.raises(DataError, match=r"a\.jinja: no chat template: line 2: .*endfor"):
        template("\n{% for m in messages %}")


@pytest.mark.parametrize(
    ("value", "message", "kind"),
    [
        (None, "field 'chat' is no list of messages", "missing_field"),
        ([], "field 'chat' is no list of messages", "missing_field"),
        (["Hi"], "message 1 of field 'chat' has no 'role'", "missing_field"),
        ([CHAT[1], {"content": "x"}], "message 2 of field 'chat' has no 'role'", "missing_field"),
        ([{"role": "human", "content": "x"}], "has the role 'human'; allowed: system, developer, user", "wrong_role"),
        ([{"role": ["user"], "content": "x"}], r"has the role \['user'\]", "wrong_role"),
        ([{"role": "user"}], "message 1 of field 'chat' has no text as its 'content'", "missing_field"),
        ([{"role": "user", "content": ["x"]}], "has no text as its 'content'", "missing_field"),
        ([{"role": "user", "content": "\ud800"}], "no UTF-8", "undecodable"),
    ],
)
def test_what_is_no_conversation(value, message, kind):
    """Guards against a traceback, or a conversation with holes, where a record is another one."""
    with pytest.raises(BadRecordError, match=message) as caught:
        checked_messages(value, "chat")
    assert caught.value.kind == kind


def test_calls_of_tools_need_no_text():
    """Guards against a refused conversation in which the assistant calls a tool and says nothing."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    assert checked_messages([CHAT[1], call], "chat") == (CHAT[1], call)


def test_marks_in_a_message():
    """Guards against a message that moves the marks."""
    with pytest.raises(BadRecordError, match=r"U\+FDD0"):
        chatml().prompt([{"role": "user", "content": "\ufdd0"}], NOW)


CAPTURED = "{% for m in messages %}{% set x %}{% generation %}{{ m.content }}{% endgeneration %}{% endset %}"


@pytest.mark.parametrize(
    "source",
    [
        CAPTURED + "{{ x.split(' ')[0] }};{% endfor %}",
        CAPTURED + "{{ x.split(' ')[-1] }};{% endfor %}",
        CAPTURED + "{{ x | reverse }};{% endfor %}",
        "{% generation %}" + CAPTURED + "{{ x }}{% endfor %}{% endgeneration %}",
    ],
    ids=["beginning_alone", "end_alone", "reversed", "nested"],
)
def test_marks_that_a_template_cuts(source):
    """Guards against weights on what the user wrote, where marks do not come in pairs."""
    chat = [{"role": "user", "content": "What is"}, {"role": "assistant", "content": "It is"}]
    with pytest.raises(BadRecordError, match=r"a\.jinja cuts, turns or nests what \{% generation %\} marks") as caught:
        template(source).conversation(chat, None)
    assert caught.value.kind == "template_error"


def test_a_conversation_that_begins_with_the_assistant():
    """Guards against a message about a list's element, of a template that looks at the first message."""
    source = "{% if messages[0].role == 'system' %}S{% endif %}" + CHATML
    chat = CHAT[2:]
    with pytest.raises(BadRecordError, match=r"begins with the assistant, and the chat template a\.jinja cannot write"):
        template(source, CHATML_TOKENS, CHATML_SPECIAL).conversation(chat, None)
    assert parts(chatml().conversation(chat, None)) == [" Hello. <|im_end|>", "Good bye!<|im_end|>"]


def test_a_template_that_asks_for_all_memory():
    """Guards against a traceback in the middle of a run."""
    with pytest.raises(BadRecordError, match=r"a\.jinja fails: MemoryError"):
        template("{{ messages[0].content * 10 ** 16 }}").prompt([{"role": "user", "content": "x"}], NOW)
