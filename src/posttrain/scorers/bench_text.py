"""What IFBench's checks share: words without punctuation, tokens, sentences and how they end, emoji, stop words.

The authors split by NLTK's punkt and word tokenizer, whose data would have to be downloaded; sentences are split by the
rules of `sentences`, tokens by a pattern that keeps `don't` and `well-known` whole.
"""

from __future__ import annotations

import re
import string
import unicodedata

from posttrain.scorers.sentences import split_sentences


def list_words(text: str) -> list[str]:
    """Return the words of a list that is written as one text."""
    return text.split()


PUNCTUATION = string.punctuation
_NO_PUNCTUATION = str.maketrans("", "", PUNCTUATION)
_TOKEN = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]")
_CLOSERS = "\"'”’)]*_» "
_EMOJI = (
    "[\U0001f1e6-\U0001f1ff\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f7e0-\U0001f7eb\U0001f900-\U0001faff"
    "\u2600-\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u231a\u231b\u23e9-\u23f3\u23f8-\u23fa\u00a9\u00ae"
    "\u203c\u2049\u2122\u2139\u3030\u303d\u3297\u3299\U0001f004\U0001f0cf\U0001f18e\U0001f191-\U0001f19a]"
)
EMOJI = re.compile(rf"(?:{_EMOJI}|[0-9#*]\ufe0f?\u20e3)[\ufe0f\u200d\U0001f3fb-\U0001f3ff]*")
STOP_WORDS = frozenset(
    list_words(
        "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her "
        "hers herself it its itself they them their theirs themselves what which who whom this that these "
        "those am is are was were be been being have has had having do does did doing a an the and but if or "
        "because as until while of at by for with about against between into through during before after "
        "above below to from up down in out on off over under again further then once here there when where "
        "why how all any both each few more most other some such no nor not only own same so than too very s "
        "t can will just don should now d ll m o re ve y ain aren couldn didn doesn hadn hasn haven isn ma "
        "mightn mustn needn shan shouldn wasn weren won wouldn"
    )
)
"""English function words, with the pieces that an apostrophe leaves of contractions (the Snowball project's list, BSD
licence, as NLTK has it)."""


def drop_punctuation(text: str) -> str:
    """Return a text without ASCII punctuation."""
    return text.translate(_NO_PUNCTUATION)


def split_plain(text: str) -> list[str]:
    """Return the words of a text in lower case, without ASCII punctuation, split at white space."""
    return drop_punctuation(text.lower()).split()


def split_tokens(text: str) -> list[str]:
    """Return the words and signs of a text, a contraction or hyphenated word as one."""
    return _TOKEN.findall(text)


def split_words(text: str) -> list[str]:
    """Return the tokens that are words."""
    return [token for token in split_tokens(text) if token[0].isalnum() or token[0] == "_"]


def count_endings(text: str) -> dict[str, int]:
    """Return how many sentences of a text end in each of `.`, `?` and `!`."""
    ends = [sentence.rstrip(_CLOSERS)[-1:] for sentence in split_sentences(text)]
    return {mark: ends.count(mark) for mark in ".?!"}


def fold_accents(text: str) -> str:
    """Return a text without accents, and without what has no ASCII form."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
