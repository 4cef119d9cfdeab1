"""Words of a text in any script, for ROUGE: rouge-score's own tokenizer keeps nothing but a to z and 0 to 9."""

import bisect
import unicodedata
from typing import Literal

# First and last characters of the scripts that put no space between words, sorted: there, each character is a token.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark, closing mark, zero
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # ideographs, extension A
    (0x4E00, 0x9FFF),  # ideographs
    (0xA9E0, 0xA9FF),  # Myanmar extension B
    (0xAA60, 0xAA7F),  # Myanmar extension A
    (0xF900, 0xFAFF),  # compatibility ideographs
    (0x20000, 0x323AF),  # ideographs, further extensions
)
_FIRSTS = tuple(first for first, _ in _UNSPACED)


def unicode_tokens(text: str) -> list[str]:
    """Splits a text into words, case folded.

    Compatible and composed forms of a character are the same (NFKC). Letters, digits and the marks that combine with
    them make words; invisible format characters (joiners) do not count; everything else separates. In scripts without
    spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each character, with its marks, is a word. On ASCII text these
    are rouge-score's own tokens, without its stemmer.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    tokens: list[str] = []
    last: Literal["word", "character", "separator"] = "separator"
    for char in unicodedata.normalize("NFKC", folded):
        category = unicodedata.category(char)
        if category == "Cf":
            continue
        if category[0] in "LN":
            kind: Literal["word", "character"] = "character" if _is_unspaced(char) else "word"
            if last == kind == "word":
                tokens[-1] += char
            else:
                tokens.append(char)
            last = kind
        elif category[0] != "M":
            last = "separator"
        elif last != "separator":
            tokens[-1] += char
    return tokens


def _is_unspaced(char: str) -> bool:
    """Whether a character belongs to a script that puts no space between words."""
    number = bisect.bisect_right(_FIRSTS, ord(char)) - 1
    return number >= 0 and ord(char) <= _UNSPACED[number][1]
