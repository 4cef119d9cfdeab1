"""Small data sets in the forms in which NarrativeQA, SCROLLS, XL-Sum and PG-19 are published."""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from famjax.data.questions.long_documents_config import PG19, Isabelle
from famjax.data.questions.reading_config import NarrativeQA, Qasper, Quality, XLSum
from famjax.data.task_config import TaskConfig

Row = dict[str, Any]

STORIES = (
    "It was on a dreary night of November that I beheld the accomplishment of my toils.\n\n" * 6,
    "Call me Ishmael. Some years ago, never mind how long precisely, I thought I would sail about.\n\n" * 9,
    "Il était une fois une petite fille de village, la plus jolie qu'on eût su voir.\n\n" * 4,
)


def _tokenized(text: str) -> dict[str, Any]:
    return {"text": text, "tokens": text.split()}


def narrative_qa_rows() -> list[Row]:
    """Four questions about two stories, as deepmind/narrativeqa has them."""
    asked = [
        (0, "Which month is it?", ["November", "It is November."]),
        (0, "What is the night like?", ["dreary", "It is dreary and dark"]),
        (1, "What is the narrator's name?", ["Ishmael", "Call him Ishmael"]),
        (1, "What will the narrator do?", ["Sail about", "He sails."]),
    ]
    return [
        {
            "document": {
                "id": f"story{number}",
                "kind": "gutenberg",
                "url": f"http://www.gutenberg.org/ebooks/{number}.txt.utf-8",
                "file_size": len(STORIES[number]),
                "word_count": len(STORIES[number].split()),
                "start": STORIES[number][:20],
                "end": STORIES[number][-20:],
                "summary": {**_tokenized(f" A summary of story {number}."), "url": "", "title": f"Story {number}"},
                "text": STORIES[number],
            },
            "question": _tokenized(question),
            "answers": [_tokenized(answer) for answer in answers],
        }
        for number, question, answers in asked
    ]


def qasper_rows() -> list[Row]:
    """Three questions about two papers, as tau/scrolls has them: the first has two records, for two references."""
    asked = [
        ("q0", "What do they measure?", 0, "The accuracy of the model"),
        ("q0", "What do they measure?", 0, "accuracy"),
        ("q1", "Do they release code?", 0, "Yes"),
        ("q2", "Which corpus is used?", 1, "Unanswerable"),
    ]
    return [
        {"id": key, "pid": f"{key}_{number}", "input": f"{question}\n\n{STORIES[story]}", "output": answer}
        for number, (key, question, story, answer) in enumerate(asked)
    ]


def quality_rows() -> list[Row]:
    """Two questions about one article, as tau/scrolls has them."""
    asked = [
        (
            "Why did he go to sea?",
            ("He was bored", "He had  no money", "He was (so it seems) ill", "He was told to"),
            2,
        ),
        ("Who tells it?", ("Ahab", "Queequeg", "Starbuck", "Ishmael"), 3),
    ]
    rows = []
    for number, (question, options, right) in enumerate(asked):
        listed = "\n".join(f" ({letter}) {option}" for letter, option in zip("ABCD", options, strict=True))
        text = f"{question}\n\n{listed}\n\n\n{STORIES[1]}"
        rows.append({"id": f"52995_{number}", "pid": f"52995_{number}_0", "input": text, "output": options[right]})
    return rows


def xlsum_rows() -> list[Row]:
    """Two articles in French, Bengali and Chinese each, as csebuetnlp/xlsum has them."""
    articles = {
        "french": ("Une petite fille vit au village. " * 5, "Une fille au village."),
        "bengali": ("বাংলাদেশের রাজধানী ঢাকা। " * 5, "ঢাকা বাংলাদেশের রাজধানী।"),
        "chinese_simplified": ("北京是中国的首都。" * 5, "北京是首都。"),
    }
    return [
        {"id": f"{language}-{n}", "url": "https://www.bbc.com/", "title": "", "summary": summary, "text": f"{n} {text}"}
        for language, (text, summary) in articles.items()
        for n in range(2)
    ]


def write_rows(path: Path, rows: Iterable[Row]) -> str:
    """Writes a file in the form that its name tells; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        raw = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


def published_tasks(folder: Path) -> dict[str, TaskConfig]:
    """Settings of the tasks that read files, by name; both splits are the same small files below `folder`."""
    tables = {
        "narrative_qa": (NarrativeQA, "validation-00000-of-00001.parquet", narrative_qa_rows()),
        "qasper": (Qasper, "validation.jsonl", qasper_rows()),
        "quality": (Quality, "validation.jsonl", quality_rows()),
        "xlsum": (XLSum, "validation.jsonl.gz", xlsum_rows()),
    }
    tasks: dict[str, TaskConfig] = {}
    for name, (kind, file_name, rows) in tables.items():
        paths = (write_rows(folder / name / file_name, rows),)
        tasks[name] = kind(paths=paths, validation_paths=paths)
    for name, kind, suffix in (("pg19", PG19, "txt"), ("isabelle", Isabelle, "thy")):
        for number, story in enumerate(STORIES):
            path = folder / name / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(story, encoding="utf-8")
        paths = (f"{folder}/{name}/*.{suffix}",)
        tasks[name] = kind(paths=paths, validation_paths=paths)
    return tasks


def prepare_scrolls(data_dir: Path, config: str, splits: Mapping[str, Sequence[Row]], num_shards: int = 1) -> None:
    """Runs TFDS's own builder of `scrolls` over a download of SCROLLS's files: train, validation and test."""
    import tensorflow_datasets as tfds

    download = data_dir / "download"
    for split, rows in splits.items():
        write_rows(download / config / f"{split}.jsonl", rows)
    builder = tfds.builder(f"scrolls/{config}", data_dir=str(data_dir))
    prepare(builder, download, num_shards)


def prepare_pg19(data_dir: Path, books: Mapping[str, Mapping[int, str]]) -> None:
    """Runs TFDS's own builder of `pg19` over a copy of DeepMind's bucket: books by split and number."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.datasets.pg19 import pg19_dataset_builder

    bucket = data_dir / "deepmind-gutenberg"
    for split, numbered in books.items():
        for number, text in numbered.items():
            path = bucket / split / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    numbers = [number for numbered in books.values() for number in numbered]
    lines = (f"{number},Title,1850,http://www.gutenberg.org/ebooks/{number}\n" for number in numbers)
    (bucket / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    with mock.patch.object(pg19_dataset_builder, "_DATA_DIR", str(bucket)):
        prepare(tfds.builder("pg19", data_dir=str(data_dir)), bucket)


def prepare(builder: Any, download: Path, num_shards: int | None = None) -> None:
    """Runs a builder, for which whatever it downloads is already in a folder."""
    import tensorflow_datasets as tfds

    manager = mock.Mock(**{"download_and_extract.return_value": download, "downloaded_size": 0})
    with mock.patch.object(type(builder), "_make_download_manager", return_value=manager):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=num_shards))
