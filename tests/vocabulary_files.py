"""Trains small vocabularies for tests: SentencePiece as T5 has it, and a byte-level Hugging Face tokenizer."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = ["the", "pass", "key", "is", "hidden", "in", "a", "long", "text", "which", "nobody", "has", "read", "twice"]
SENTENCES = [" ".join(WORDS[i:] + WORDS[:i]) + f". {i} days, it's a día\n" for i in range(len(WORDS))]


def train_sentencepiece(folder: Path, sentences: Sequence[str] = SENTENCES * 5, **settings: Any) -> str:
    """Writes a model with SentencePiece's defaults (blanks are merged, a blank comes first), and returns its path.

    Without bytes for what it has no piece for: such text is its unknown token.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=340 if settings.get("byte_fallback") else 90,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        **settings,
    )
    path = folder / "tiny.model"
    path.write_bytes(model.getvalue())
    return str(path)


def train_tokenizer(
    folder: Path,
    sentences: Sequence[str] = SENTENCES * 5,
    vocab_size: int = 400,
    special_tokens: Sequence[str] = ("<pad>", "<s>", "</s>"),
) -> str:
    """Writes the tokenizer.json of a byte-level BPE, and returns its path."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)


IMAGE = "<image>"


def add_image_token(path: str) -> int:
    """Adds `IMAGE` behind the other tokens of a chat tokenizer, as Gemma 3 has it, and returns its id."""
    if path.endswith(".json"):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(path)
        tokenizer.add_special_tokens([IMAGE])
        tokenizer.save(path)
        return int(tokenizer.get_vocab_size()) - 1
    beside = Path(path).parent / "tokenizer_config.json"
    config = json.loads(beside.read_text())
    added = config["added_tokens_decoder"]
    number = max(map(int, added)) + 1
    beside.write_text(json.dumps({**config, "added_tokens_decoder": {**added, number: {"content": IMAGE}}}))
    return number


# Chat templates in the manner of two families, and the special tokens that they write.
CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
HEADERS = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if loop.index0 == 0 and message['role'] not in ['system', 'user'] %}
        {{- raise_exception('A conversation begins with a system or user message, not ' + message['role']) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
CHATML_TOKENS = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
CHATML_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HEADERS_TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
HEADERS_SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def train_chat_tokenizer(folder: Path, family: str) -> str:
    """Writes a tokenizer.json with what lies beside it, "chatml" or "headers" (as Llama 3), and returns its path."""
    template, tokens, special = {
        "chatml": (CHATML, CHATML_TOKENS, CHATML_SPECIAL),
        "headers": (HEADERS, HEADERS_TOKENS, HEADERS_SPECIAL),
    }[family]
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokens, "chat_template": template}))
    return train_tokenizer(folder, special_tokens=special)


def train_chat_sentencepiece(folder: Path) -> str:
    """Writes a SentencePiece model to which ChatML's tokens were added, and returns its path."""
    import sentencepiece

    path = train_sentencepiece(
        folder, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False
    )
    size = sentencepiece.SentencePieceProcessor(model_file=path).GetPieceSize()
    added = {str(size + number): {"content": text, "special": True} for number, text in enumerate(CHATML_SPECIAL)}
    config = {**CHATML_TOKENS, "chat_template": CHATML, "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return path
