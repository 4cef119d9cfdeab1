"""From a record of a published data set to a question about a document, or a document.

Each data set has one or two forms: NarrativeQA as deepmind/narrativeqa and as SCROLLS has it, Qasper and QuALITY as
SCROLLS has them (tau/scrolls), XL-Sum as csebuetnlp/xlsum, PG-19 as TFDS has it.
"""

import dataclasses
import re
from typing import Any

from famjax.data.json_objects import BadRecordError, Fields
from famjax.data.questions.dataset_files import text_field
from famjax.data.questions.long_documents_config import PG19
from famjax.data.questions.reading_config import NarrativeQA, PublishedData, Qasper, Quality, XLSum

OPTION_LETTERS = "ABCD"
# What ends each part of SCROLLS's QuALITY: question, " (A) ..." to " (D) ...", a blank line, article.
_PART_ENDS = (*(re.compile(rf"\s\({letter}\)") for letter in OPTION_LETTERS), re.compile(r"\n[ \t]*\n"))
_SCROLLS = ("id", "input", "output")


@dataclasses.dataclass(frozen=True)
class Item:
    """What one record holds.

    Attributes:
      document: what is read.
      question: about it; empty where nothing is asked.
      references: right answers, none of them empty.
      choices: of a multiple choice, in order, `references` among them.
      key: records with the same key are one question with several references; None: this one stands alone.
    """

    document: str
    question: str = ""
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    key: str | None = None


def columns_of(config: PublishedData) -> tuple[str, ...]:
    """The fields that `item_of` reads, as "document.text"."""
    match config:
        case NarrativeQA(context="summary"):
            return ("document.summary.text", "question.text", "answers", *_SCROLLS)
        case NarrativeQA():
            return ("document.text", "question.text", "answers", *_SCROLLS)
        case Qasper() | Quality():
            return _SCROLLS
        case XLSum():
            return ("text", "summary")
        case PG19():
            return ("book_text",)
    raise TypeError(f"{type(config).__name__} is no published data set")


def item_of(fields: Fields, config: PublishedData) -> Item:
    """What a record holds; BadRecordError where it is none of this data set."""
    match config:
        case NarrativeQA():
            return _scrolls(fields, config) if "input" in fields else _narrative_qa(fields, config)
        case Qasper():
            return _scrolls(fields, config)
        case Quality():
            return _quality(fields)
        case XLSum():
            return Item(text_field(fields, "text"), references=(text_field(fields, "summary"),))
        case PG19():
            return Item(text_field(fields, "book_text"))
    raise TypeError(f"{type(config).__name__} is no published data set")


def _narrative_qa(fields: Fields, config: NarrativeQA) -> Item:
    """deepmind/narrativeqa: {document: {text, summary: {text}}, question: {text}, answers: [{text}]}."""
    names = ("document", "summary", "text") if config.context == "summary" else ("document", "text")
    answers: Any = fields.get("answers")
    if not isinstance(answers, list) or not answers:
        raise BadRecordError("no answer in field 'answers'", "no_answer")
    references = tuple(text_field(answer, "text") for answer in answers)
    return Item(text_field(fields, *names), text_field(fields, "question", "text"), references)


def _output(fields: Fields) -> str:
    if fields.get("output") in {None, ""}:
        raise BadRecordError("no answer in field 'output' (SCROLLS publishes none of its test splits)", "no_answer")
    return text_field(fields, "output")


def _scrolls(fields: Fields, config: NarrativeQA | Qasper) -> Item:
    """tau/scrolls: {id, input: question, blank line, document; output}."""
    if isinstance(config, NarrativeQA) and config.context == "summary":
        raise BadRecordError(
            "SCROLLS's form of NarrativeQA has no summary (NarrativeQA.context = 'document')", "missing_field"
        )
    question, blank_line, document = text_field(fields, "input").partition("\n\n")
    if not (blank_line and question.strip() and document.strip()):
        raise BadRecordError("field 'input' is no question, blank line and document", "no_question")
    return Item(document.strip(), question.strip(), (_output(fields),), key=text_field(fields, "id"))


def _quality(fields: Fields) -> Item:
    rest, parts = text_field(fields, "input"), list[str]()
    for end in _PART_ENDS:
        found = end.search(rest)
        if found is None:
            raise BadRecordError(
                "field 'input' is no question, options (A) to (D), blank line and article", "no_question"
            )
        parts.append(_one_line(rest[: found.start()]))
        rest = rest[found.end() :]
    (question, *options), document = parts, rest.strip()
    choices = tuple(options)
    reference = _one_line(_output(fields))
    if reference not in choices or not all(choices):
        raise BadRecordError(f"field 'output', {reference!r}, is none of the options {choices}", "no_answer")
    if not (question and document):
        raise BadRecordError("field 'input' has no question or no article", "no_question")
    return Item(document, question, (reference,), choices, key=text_field(fields, "id"))


def _one_line(text: str) -> str:
    return " ".join(text.split())
