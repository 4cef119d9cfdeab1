"""The tokenizer of an import becomes the vocabulary of what is done with it."""

import shutil
from pathlib import Path

import pytest
from imported import BLOCK, copy_of, with_more_tokens

from famjax.configuration.loading import load
from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.vocabularies import make_vocabulary
from famjax.errors import ConfigError, DataError
from famjax.inference.language_model import LanguageModel
from famjax.interop import huggingface
from famjax.interop.importing import import_checkpoint
from famjax.models.config import MemoryConfig
from famjax.pods.config import MeshConfig
from famjax.training.config import TrainJob
from famjax.training.loop import train as train_run
from vocabulary_files import IMAGE, add_image_token, train_chat_sentencepiece, train_chat_tokenizer

SMALL = MemoryConfig(block_size=BLOCK, num_segments=1, fam_length=0)

TOKENIZERS = {
    "hugging_face": (lambda folder: train_chat_tokenizer(folder, "chatml"), HuggingFaceVocabulary, "tokenizer.json"),
    "sentencepiece": (
        lambda folder: Path(train_chat_sentencepiece(folder)).rename(folder / "tokenizer.model"),
        SentencePieceVocabulary,
        "tokenizer.model",
    ),
}


@pytest.mark.parametrize(("train", "kind", "file"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_its_tokenizer_is_the_vocabulary(train, kind, file, tmp_path, monkeypatch, capsys):
    """Guards against a pretrained checkpoint that is trained, or read, as bytes: its ids would mean something else."""
    source, output = with_more_tokens(tmp_path), tmp_path / "out"
    train(source)
    monkeypatch.chdir(tmp_path)
    assert huggingface.main(["import", f"--source={source}", "--output=out"]) == 0
    printed = capsys.readouterr().out
    assert f'--gin.VOCABULARY="@{kind.__name__}()" --gin.{kind.__name__}.path="\'{output / file}\'"' in printed
    bindings = {
        "MODEL_DIR": f"'{tmp_path / 'run'}'",
        "INITIAL_CHECKPOINT_PATH": f"'{output}'",
        "MIXTURE_OR_TASK_NAME": "'passkey'",
        "TASK_FEATURE_LENGTHS": "{'targets': 320}",
        "TRAIN_STEPS": "1",
        "BATCH_SIZE": "1",
        "TrainJob.eval_data": "None",
        "MeshConfig.num_devices": "1",
        "BLOCK_SIZE": "32",
    }
    command = next(line for line in printed.splitlines() if line.startswith("To train: "))
    files = [word.removeprefix("--gin_file=") for word in command.split() if word.startswith("--gin_file=")]
    assert load(TrainJob, files, list(bindings.items())).job.data.vocabulary == kind(str(output / file))
    as_bytes = load(TrainJob, [files[-1], *files[:-1]], list(bindings.items())).job
    with pytest.raises(
        ConfigError, match=r"trained with another vocabulary; set --gin.VOCABULARY .* as in .*model.gin"
    ):
        train_run(as_bytes)
    with pytest.raises(ConfigError, match=r"another vocabulary than ByteVocabulary\(\); set .* as in .*/out/model.gin"):
        LanguageModel.open(output)
    model = LanguageModel.open(output, vocabulary=kind(str(output / file)), mesh=MeshConfig(num_devices=1))
    assert model.vocabulary.chat is not None
    assert model.vocabulary.fingerprint == make_vocabulary(kind(str(source / file))).fingerprint


def test_a_tokenizer_that_cannot_be_read(tmp_path):
    """Guards against a checkpoint whose vocabulary nothing can open."""
    folder = copy_of("qwen3", tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer.json: no tokenizer.json"):
        import_checkpoint(folder, tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("train", "kind", "file"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_added_tokens_beyond_the_table(train, kind, file, tmp_path, capsys):
    """Guards against an import that no job can use, as the model has no rows for its tokenizer's last tokens."""
    tokenizer, output, back = tmp_path / "tokenizer", tmp_path / "out", tmp_path / "back"
    tokenizer.mkdir()
    train(tokenizer)
    size = add_image_token(str(tokenizer / file))
    source = with_more_tokens(tmp_path, size)
    shutil.copytree(tokenizer, source, dirs_exist_ok=True)
    assert huggingface.main(["import", f"--source={source}", f"--output={output}"]) == 0
    printed = capsys.readouterr().out
    assert f"--gin.{kind.__name__}.path=\"'{output / file}'\" --gin.{kind.__name__}.table_size={size}" in printed
    assert f"Left out of it, as the model's embedding table has {size} rows: '{IMAGE}'." in printed
    vocabulary = kind(str(output / file), table_size=size)
    assert f"{kind.__name__}.table_size = {size}\n" in (output / "model.gin").read_text()
    model = LanguageModel.open(output, vocabulary=vocabulary, mesh=MeshConfig(num_devices=1))
    assert model.vocabulary.vocab_size == model.config.vocab_size == size
    with pytest.raises(ConfigError, match=r"trained with another vocabulary .*table_size=None.*; set --gin.VOCABULARY"):
        LanguageModel.open(output, vocabulary=kind(str(output / file)))
    assert huggingface.main(["export", f"--checkpoint={output}", f"--output={back}", f"--like={source}"]) == 0
    for path in tokenizer.iterdir():
        assert (back / path.name).read_bytes() == path.read_bytes()


def test_ordinary_tokens_beyond_the_table(tmp_path, capsys):
    """Guards against a checkpoint with another model's tokenizer, which is found out when a job is started."""
    source = with_more_tokens(tmp_path, 300)
    train_chat_tokenizer(source, "chatml")
    assert huggingface.main(["import", f"--source={source}", f"--output={tmp_path / 'out'}"]) != 0
    assert "its ordinary tokens have ids up to 333, beyond the 300 rows of the model's" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
