"""Tests of famjax.data.questions.tfds_records: data sets that TFDS's own builders have written."""

import sys

import pytest

from famjax.data.json_objects import BadRecordError
from famjax.data.questions.dataset_files import UnreadableError
from famjax.data.questions.tfds_records import read_tfds
from published_fixtures import prepare, prepare_pg19, prepare_scrolls, qasper_rows

BOOKS = {"train": {1: "First book.", 2: "Second book, é."}, "validation": {3: "Third."}, "test": {4: "Fourth."}}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder in which TFDS has prepared SCROLLS's Qasper, and PG-19."""
    folder = tmp_path_factory.mktemp("tfds")
    rows = qasper_rows()
    prepare_scrolls(folder, "qasper", {"train": rows, "validation": rows[:2], "test": [{**rows[0], "output": None}]})
    prepare_pg19(folder, BOOKS)
    return str(folder)


def test_scrolls_is_read_as_it_was_published(data_dir):
    """Guards against records lost, doubled or changed on the way through TFDS, and against bytes for text."""
    records = [record.decode() for record in read_tfds("scrolls/qasper", data_dir, "train")]
    assert sorted(records, key=lambda fields: fields["pid"]) == qasper_rows()
    (unanswered,) = read_tfds("scrolls/qasper", data_dir, "test")
    assert unanswered.decode()["output"] == ""
    assert unanswered.place == "scrolls/qasper of TFDS, test, record 0"


def test_the_order_is_the_same_each_time(tmp_path):
    """Guards against shuffled files: example i would be another in each process."""
    rows = [{"id": str(i), "pid": str(i), "input": f"Who?\n\nText {i}.", "output": "I"} for i in range(40)]
    prepare_scrolls(tmp_path, "qasper", {"train": rows, "validation": rows, "test": rows}, num_shards=8)
    assert len(list((tmp_path / "scrolls" / "qasper" / "1.0.0").glob("*train*"))) == 8
    orders = {tuple(r.decode()["pid"] for r in read_tfds("scrolls/qasper", str(tmp_path), "train")) for _ in range(4)}
    assert len(orders) == 1
    assert sorted(orders.pop()) == sorted(row["pid"] for row in rows)


def test_books_are_read_by_split(data_dir):
    """Guards against a split, or a slice of one, that is ignored."""
    texts = {record.decode()["book_text"] for record in read_tfds("pg19", data_dir, "train")}
    assert texts == set(BOOKS["train"].values())
    assert len(list(read_tfds("pg19", data_dir, "train[:1]"))) == 1
    (record,) = read_tfds("pg19:0.1.1", data_dir, "test")
    assert record.decode()["book_text"] == "Fourth."


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        (
            "scrolls/quality",
            "train",
            r"TFDS has not prepared .*scrolls/quality.*tfds build scrolls/quality --data_dir=",
        ),
        ("pg19", "dev", r"cannot read 'dev' of the data set 'pg19': Unknown split"),
        ("no_such_set", "train", r"'no_such_set': .*not found"),
        ("scrolls/no_such_config", "train", "no_such_config not found"),
    ],
)
def test_what_cannot_be_read_is_told(data_dir, name, split, message):
    """Guards against a traceback of TFDS where the data set was not prepared, or is misspelled."""
    with pytest.raises(UnreadableError, match=message):
        list(read_tfds(name, data_dir, split))


def test_a_broken_file_is_told(tmp_path):
    """Guards against a traceback of tensorflow for a copy that was cut off."""
    prepare_pg19(tmp_path, BOOKS)
    (shard,) = (tmp_path / "pg19" / "0.1.1").glob("*train.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UnreadableError, match="cannot read 'train' of the data set 'pg19'"):
        list(read_tfds("pg19", str(tmp_path), "train"))


def test_a_text_that_is_not_utf8_is_a_bad_record(tmp_path):
    """Guards against a traceback for one book of another encoding."""
    import tensorflow_datasets as tfds

    class Latin(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"book_text": tfds.features.Text()})
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"book_text": "día".encode("latin-1")}

    Latin.pkg_dir_path = tmp_path
    prepare(Latin(data_dir=str(tmp_path)), tmp_path)
    (record,) = read_tfds("latin", str(tmp_path), "train")
    with pytest.raises(BadRecordError, match="not UTF-8"):
        record.decode()


def test_accelerators_are_left_to_jax(data_dir, monkeypatch):
    """Guards against tensorflow taking all of a GPU's memory because a data set is read."""
    import tensorflow as tf

    hidden = []
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [f"{kind}:0"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: hidden.append((devices, kind)))
    assert list(read_tfds("pg19", data_dir, "test"))
    assert hidden == [([], "GPU")]


def test_a_missing_package_is_told(monkeypatch):
    """Guards against a bare ImportError, which names no setting."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UnreadableError, match="needs the package tensorflow-datasets"):
        list(read_tfds("pg19", None, "train"))
