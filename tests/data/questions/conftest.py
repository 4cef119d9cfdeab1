"""What the tests of the questions share."""

import pytest

from famjax.data.config import ByteVocabulary, HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.vocabularies import make_vocabulary
from prose import Asking


@pytest.fixture(scope="session")
def asking(tmp_path_factory):
    """Opens tasks over a small corpus of sentences."""
    return Asking(tmp_path_factory.mktemp("prose"))


@pytest.fixture(params=["bytes", "sentencepiece", "huggingface"])
def vocabulary(request):
    """A vocabulary of each kind."""
    match request.param:
        case "bytes":
            return make_vocabulary(ByteVocabulary())
        case "sentencepiece":
            return make_vocabulary(SentencePieceVocabulary(request.getfixturevalue("sentencepiece_path")))
        case _:
            return make_vocabulary(HuggingFaceVocabulary(request.getfixturevalue("tokenizer_path")))
