"""Tests of famjax.data.tokenizer_files."""

import json

import pytest

from famjax.data.tokenizer_files import AddedToken, read_tokenizer_files
from famjax.errors import DataError


def write(folder, **files):
    """Writes JSON files by their names without ending; the folder."""
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_nothing_beside_it(tmp_path):
    """Guards against an exception for a tokenizer that lies alone."""
    found = read_tokenizer_files(tmp_path)
    assert (found.special, found.added, found.chat_template) == ({}, {}, None)


def test_special_tokens(tmp_path):
    """Guards against forms of a token that are not read, an unset one that is, and the wrong file first."""
    config = {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>", "lstrip": False}, "pad_token": None}
    special_map = {"eos_token": "</s>", "pad_token": {"content": "<pad>"}, "unk_token": "<unk>"}
    found = read_tokenizer_files(write(tmp_path, tokenizer_config=config, special_tokens_map=special_map))
    assert found.special == {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<pad>", "unk_token": "<unk>"}


def test_added_tokens(tmp_path):
    """Guards against added tokens without their ids, and special ones that count as text."""
    decoder = {"32000": {"content": "<|im_end|>", "special": True}, "32001": {"content": "<think>", "special": False}}
    found = read_tokenizer_files(write(tmp_path, tokenizer_config={"added_tokens_decoder": decoder}))
    assert found.added == {"<|im_end|>": AddedToken(32000, True), "<think>": AddedToken(32001, False)}


def test_added_tokens_of_older_tokenizers(tmp_path):
    """Guards against a folder without added_tokens_decoder, whose ids are in a file of their own."""
    special_map = {"eos_token": "<|end|>", "additional_special_tokens": ["<|user|>", {"content": "<|bot|>"}]}
    added = {"<|end|>": 7, "<|user|>": 8, "<|bot|>": 9, "<think>": 10}
    found = read_tokenizer_files(write(tmp_path, special_tokens_map=special_map, added_tokens=added))
    assert {text: token.id for text, token in found.added.items()} == added
    assert [text for text, token in found.added.items() if not token.special] == ["<think>"]


def test_chat_templates(tmp_path):
    """Guards against the template of tools, and against an old template beside a new one."""
    assert read_tokenizer_files(write(tmp_path, tokenizer_config={"chat_template": "one"})).chat_template == "one"
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "two"}]
    found = read_tokenizer_files(write(tmp_path, tokenizer_config={"chat_template": several}))
    assert (found.chat_template, found.template_path) == ("two", str(tmp_path / "tokenizer_config.json"))
    (tmp_path / "chat_template.jinja").write_text("three")
    found = read_tokenizer_files(tmp_path)
    assert (found.chat_template, found.template_path) == ("three", str(tmp_path / "chat_template.jinja"))
    (tmp_path / "mine.jinja").write_text("four")
    assert read_tokenizer_files(tmp_path, str(tmp_path / "mine.jinja")).chat_template == "four"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": {"eos_token": 7}}, r"tokenizer_config\.json: eos_token is 7; allowed: a token's text"),
        ({"tokenizer_config": ["eos_token"]}, r"tokenizer_config\.json: a JSON list, not an object"),
        ({"tokenizer_config": {"chat_template": {}}}, r"tokenizer_config\.json: chat_template is a dict, not a text"),
        ({"tokenizer_config": {"added_tokens_decoder": []}}, r"added_tokens_decoder is no object of tokens"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "y"}}}}, "an added token has no id"),
        ({"added_tokens": {"x": None}}, "an added token has no id"),
    ],
)
def test_wrong_files_are_named(tmp_path, files, message):
    """Guards against a traceback where a file beside the tokenizer is damaged."""
    with pytest.raises(DataError, match=message):
        read_tokenizer_files(write(tmp_path, **files))


def test_a_missing_template_is_named(tmp_path):
    """Guards against a misspelled path that falls back to the template beside the tokenizer."""
    write(tmp_path, tokenizer_config={"chat_template": "one"})
    with pytest.raises(DataError, match=r"mine\.jinja: the chat template cannot be read"):
        read_tokenizer_files(tmp_path, str(tmp_path / "mine.jinja"))
