"""Trains small vocabularies for tests: SentencePiece as T5 has it, and a byte-level Hugging Face tokenizer."""

import io
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


def train_tokenizer(folder: Path, sentences: Sequence[str] = SENTENCES * 5, vocab_size: int = 400) -> str:
    """Writes the tokenizer.json of a byte-level BPE with special tokens <pad>, <s>, </s>, and returns its path."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)
