"""Tests of famjax.data.questions.published_forms."""

import pytest

from famjax.data.json_objects import BadRecordError
from famjax.data.questions.long_documents_config import PG19
from famjax.data.questions.published_forms import Item, columns_of, item_of
from famjax.data.questions.reading_config import NarrativeQA, Qasper, Quality, XLSum
from published_fixtures import STORIES, narrative_qa_rows, qasper_rows, quality_rows, xlsum_rows

ARTICLE = STORIES[1].strip()


def test_narrative_qa():
    """Guards against summaries in place of stories, and against all answers but the first being lost."""
    row = narrative_qa_rows()[2]
    item = Item(STORIES[1], "What is the narrator's name?", ("Ishmael", "Call him Ishmael"))
    assert item_of(row, NarrativeQA()) == item
    assert item_of(row, NarrativeQA(context="summary")).document == " A summary of story 1."
    assert item_of(row, NarrativeQA(context="summary")).question == item.question


@pytest.mark.parametrize("config", [Qasper(), NarrativeQA()])
def test_scrolls(config):
    """Guards against a question cut elsewhere than at the first blank line: documents have blank lines, too."""
    item = item_of(qasper_rows()[3], config)
    assert item == Item(STORIES[1].strip(), "Which corpus is used?", ("Unanswerable",), key="q2")
    assert "\n\n" in item.document


def test_quality():
    """Guards against options that are cut at brackets of their own, and a right option that differs in its blanks."""
    first, second = (item_of(row, Quality()) for row in quality_rows())
    choices = ("He was bored", "He had no money", "He was (so it seems) ill", "He was told to")
    assert first == Item(ARTICLE, "Why did he go to sea?", ("He was (so it seems) ill",), choices, "52995_0")
    assert second.references == ("Ishmael",)


def test_quality_with_letters_in_brackets_elsewhere():
    """Guards against an article, or an option, that mentions (A) or (D) and is taken for the list of options."""
    text = "Who?\n\n (A) one\n (B) two (a pair)\n (C) three\n (D) four\n\nIt is (A) here.\n\n (D) there."
    item = item_of({"id": "1", "input": text, "output": "two  (a pair)"}, Quality())
    assert item == Item("It is (A) here.\n\n (D) there.", "Who?", ("two (a pair)",), item.choices, "1")
    assert item.choices == ("one", "two (a pair)", "three", "four")


def test_xlsum_and_pg19():
    """Guards against the title, or the link, as the text."""
    row = xlsum_rows()[2]
    assert item_of(row, XLSum()) == Item(row["text"], references=("ঢাকা বাংলাদেশের রাজধানী।",))
    assert item_of({"book_text": "A book.", "book_title": "Title"}, PG19()) == Item("A book.")


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (NarrativeQA(), narrative_qa_rows()),
        (NarrativeQA(context="summary"), narrative_qa_rows()),
        (NarrativeQA(), qasper_rows()),
        (Qasper(), qasper_rows()),
        (Quality(), quality_rows()),
        (XLSum(), xlsum_rows()),
    ],
)
def test_the_columns_are_all_that_is_read(config, rows):
    """Guards against a parquet file of which too little is read: a field that is there would be missing."""

    def only(fields, columns):
        tops = {name.partition(".")[0]: name.partition(".")[2] for name in columns}
        kept = {name: value for name, value in fields.items() if name in tops}
        return {name: only(value, (tops[name],)) if tops[name] else value for name, value in kept.items()}

    for row in rows:
        assert item_of(only(row, columns_of(config)), config) == item_of(row, config)


SCROLLS = {"id": "q", "input": "Who?\n\nIt was I.", "output": "I"}
OPTIONS = {"id": "q", "input": "Who?\n\n (A) I\n (B) he\n (C) she\n (D) they\n\nIt was I.", "output": "I"}


@pytest.mark.parametrize(
    ("config", "fields", "message", "kind"),
    [
        (NarrativeQA(), narrative_qa_rows()[0] | {"answers": []}, "no answer in field 'answers'", "no_answer"),
        (NarrativeQA(), narrative_qa_rows()[0] | {"answers": [{"tokens": []}]}, "no field 'text'", "missing_field"),
        (NarrativeQA(), narrative_qa_rows()[0] | {"question": {}}, r"no field 'question\.text'", "missing_field"),
        (NarrativeQA(context="summary"), SCROLLS, "no summary .*NarrativeQA.context", "missing_field"),
        (Qasper(), SCROLLS | {"input": "Who? It was I."}, "no question, blank line and document", "no_question"),
        (Qasper(), SCROLLS | {"input": "Who?\n\n  "}, "no question, blank line and document", "no_question"),
        (Qasper(), SCROLLS | {"output": None}, "none of its test splits", "no_answer"),
        (Qasper(), SCROLLS | {"output": ""}, "none of its test splits", "no_answer"),
        (Qasper(), SCROLLS | {"output": 3}, "'output' is not a string", "missing_field"),
        (Qasper(), {"input": "Who?\n\nI", "output": "I"}, "no field 'id'", "missing_field"),
        (Quality(), SCROLLS | {"input": "Who? " + " (A) I" * 50_000}, r"options \(A\) to \(D\)", "no_question"),
        (Quality(), OPTIONS | {"input": OPTIONS["input"].partition("\n\nIt")[0]}, "blank line", "no_question"),
        (Quality(), OPTIONS | {"input": OPTIONS["input"].replace("It was I.", " ")}, "no article", "no_question"),
        (Quality(), OPTIONS | {"input": OPTIONS["input"].replace(" he", "")}, "none of the options", "no_answer"),
        (Quality(), SCROLLS, r"options \(A\) to \(D\)", "no_question"),
        (Quality(), OPTIONS | {"output": "we"}, "'we', is none of the options", "no_answer"),
        (Quality(), OPTIONS | {"output": None}, "none of its test splits", "no_answer"),
        (XLSum(), {"text": "Text."}, "no field 'summary'", "missing_field"),
        (PG19(), {"text": "Text."}, "no field 'book_text'", "missing_field"),
    ],
)
def test_bad_records(config, fields, message, kind):
    """Guards against a question without its answer, or half of one, that is asked nevertheless."""
    with pytest.raises(BadRecordError, match=message) as caught:
        item_of(fields, config)
    assert caught.value.kind == kind
