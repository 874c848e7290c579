"""IFBench's constraints on words and sentences: counts, ratios, letters, positions.

Builders and checks as in `instruction_texts`, with the semantics of the authors' checkers (Pyatkin et al. 2025, arXiv
2507.02833) unless a comment says why not: where nothing is there that could break a rule, nothing follows it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable

from posttrain.scorers.arguments import Arguments
from posttrain.scorers.bench_text import (
    PUNCTUATION,
    STOP_WORDS,
    count_endings,
    drop_punctuation,
    list_words,
    split_plain,
    split_tokens,
    split_words,
)
from posttrain.scorers.instruction_texts import Check
from posttrain.scorers.sentences import split_sentences

NAMES = list_words(
    "Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia "
    "Benjamin Harper Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett "
    "Nathan Victoria Elijah Layla Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria "
    "Joseph Claire Ryan Stella Jonathan"
)
"""The names that the request lists."""
_PRONOUNS = frozenset(
    list_words(
        "i me we us you he him she her it they them my mine our ours your yours his hers its their theirs "
        "myself ourselves yourself yourselves himself herself itself themselves this that these those who "
        "whom whose which what whoever whomever whatever whichever anybody anyone anything everybody everyone "
        "everything nobody nothing somebody someone something each either neither both all some any none"
    )
)
_CONJUNCTIONS = frozenset(list_words("and but for nor or so yet"))
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxyz]{2}")
_JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
_PRIMES = frozenset(n for n in range(2, 100) if all(n % d for d in range(2, n)))
_TIMES = (1, 2, 3, 5, 7)
_TOLERANCE = 2


def _count(what: Callable[[str], int], told: str, argument: str) -> Callable[[Arguments], Check]:
    """Return the builder of a check that there are at least so many of something."""

    def build(arguments: Arguments) -> Check:
        target = arguments.number(argument)

        def check(text: str) -> str | None:
            count = what(text)
            return None if count >= target else f"{count} {told}, not at least {target}"

        return check

    return build


def _strip(word: str) -> str:
    return word.strip(PUNCTUATION + " ").lower()


build_conjunctions = _count(
    lambda text: len(_CONJUNCTIONS & {_strip(word) for word in text.split()}), "coordinating conjunctions", "small_n"
)
build_unique_words = _count(lambda text: len({_strip(word) for word in text.split()} - {""}), "different words", "N")
build_person_names = _count(lambda text: len({*NAMES} & set(re.findall(r"\w+", text))), "names of the list", "N")
build_pronouns = _count(
    lambda text: sum(word in _PRONOUNS for word in re.findall(r"\w+", text.lower())), "pronouns", "N"
)


def build_keywords_multiple(arguments: Arguments) -> Check:
    """Five keywords occur 1, 2, 3, 5 and 7 times, as whole words in any case (`keyword1` to `keyword5`)."""
    keywords = [arguments.text(f"keyword{number}").strip() for number in range(1, 6)]
    patterns = [re.compile(rf"\b{re.escape(keyword)}\b", re.IGNORECASE) for keyword in keywords]

    def check(text: str) -> str | None:
        for keyword, pattern, times in zip(keywords, patterns, _TIMES, strict=True):
            count = sum(1 for _ in pattern.finditer(text))
            if count != times:
                return f"{keyword!r} {count} times, not {times}"
        return None

    return check


def build_numbers(arguments: Arguments) -> Check:
    """Exactly `N` numbers: runs of digits once punctuation is dropped, so that `1,000.5` is one."""
    target = arguments.number("N")

    def check(text: str) -> str | None:
        count = sum(1 for _ in re.finditer(r"\d+", drop_punctuation(text)))
        return None if count == target else f"{count} numbers, not {target}"

    return check


def build_punctuation(arguments: Arguments) -> Check:
    """An interrobang (`?!`, `!?` or one sign), and each of `. , ! ? ; :` beside it."""
    del arguments

    def check(text: str) -> str | None:
        rest = next((text.replace(mark, "", 1) for mark in ("?!", "!?", "‽") if mark in text), None)
        if rest is None:
            return "no interrobang"
        missing = [mark for mark in ".,!?;:" if mark not in rest]
        return f"without {' '.join(missing)}" if missing else None

    return check


def build_word_range(arguments: Arguments) -> Check:
    r"""From `min_words` to `max_words` words (runs of `\w`)."""
    low, high = arguments.number("min_words"), arguments.number("max_words")

    def check(text: str) -> str | None:
        count = sum(1 for _ in re.finditer(r"\w+", text))
        return None if low <= count <= high else f"{count} words, not {low} to {high}"

    return check


def build_japanese(arguments: Arguments) -> Check:
    """Every `N`th word has a Japanese character; figures and signs may stand there too, but not alone."""
    step = arguments.number("N", smallest=1)

    def check(text: str) -> str | None:
        words = [word.strip(PUNCTUATION + " ") for word in text.split()][step - 1 :: step]
        other = next((word for word in words if word and not word.isdigit() and not _JAPANESE.search(word)), None)
        if other is not None:
            return f"{other!r} in a place for Japanese"
        return None if any(map(_JAPANESE.search, words)) else "no Japanese word in such a place"

    return check


def build_overlap(arguments: Arguments) -> Check:
    """The share of the text's trigrams that the reference has is `percentage`, by 2 points more or less."""
    target = arguments.number("percentage")
    reference = set(_list_trigrams(arguments.text("reference_text")))

    def check(text: str) -> str | None:
        own = set(_list_trigrams(text))
        share = 100 * len(own & reference) / len(own) if own else -100.0
        return None if abs(share - target) <= _TOLERANCE else f"an overlap of {share:.0f} %, not {target} %"

    return check


def _list_trigrams(text: str) -> list[tuple[str, str, str]]:
    tokens = split_tokens(text)
    return list(zip(tokens, tokens[1:], tokens[2:], strict=False))


def build_sentence_balance(arguments: Arguments) -> Check:
    """As many sentences end in `.` as in `?` and in `!`, at least one of each."""
    del arguments

    def check(text: str) -> str | None:
        counts = count_endings(text)
        return None if len({*counts.values()}) == 1 and counts["."] else f"sentences by their end: {counts}"

    return check


def build_sentence_type(arguments: Arguments) -> Check:
    """Twice as many sentences end in `.` as in `?`, of which there is one."""
    del arguments

    def check(text: str) -> str | None:
        counts = count_endings(text)
        return None if counts["."] == 2 * counts["?"] > 0 else f"{counts['.']} statements, {counts['?']} questions"

    return check


def build_sentence_words(arguments: Arguments) -> Check:
    """Three sentences of one length in characters, all of whose words differ."""
    del arguments

    def check(text: str) -> str | None:
        sentences = split_sentences(text)
        lengths = [len(sentence) for sentence in sentences]
        if len(sentences) != 3 or len({*lengths}) != 1:
            return f"sentences of {lengths[:5]} characters, not three of one length"
        words = split_plain(" ".join(sentences))
        return None if len(words) == len({*words}) else "a word twice"

    return check


def build_stop_words(arguments: Arguments) -> Check:
    """At most `percentage` percent of the words are stop words (`bench_text.STOP_WORDS`)."""
    highest = arguments.number("percentage")

    def check(text: str) -> str | None:
        words = re.findall(r"\w+", text)
        share = 100 * sum(word.lower() in STOP_WORDS for word in words) / len(words) if words else 100.0
        return None if share <= highest else f"{share:.0f} % stop words, more than {highest} %"

    return check


def build_alliteration_increment(arguments: Arguments) -> Check:
    """Each sentence has more words in alliterating runs than the one before it, and there are two."""
    del arguments

    def check(text: str) -> str | None:
        counts = [_count_alliterating(sentence) for sentence in split_sentences(text)]
        rises = len(counts) > 1 and all(a < b for a, b in itertools.pairwise(counts))
        return None if rises else f"alliterating words by sentence: {counts[:9]}"

    return check


def _count_alliterating(sentence: str) -> int:
    words = [word for word in (word.lstrip(PUNCTUATION + " ") for word in sentence.lower().split()) if word]
    runs = [len(list(run)) for _, run in itertools.groupby(words, key=lambda word: word[0])]
    return sum(length for length in runs if length > 1)


def build_increment(arguments: Arguments) -> Check:
    """Each sentence has `small_n` words more than the one before it, and there are two."""
    step = arguments.number("small_n")

    def check(text: str) -> str | None:
        counts = [len(split_plain(sentence)) for sentence in split_sentences(text)]
        rises = len(counts) > 1 and all(b - a == step for a, b in itertools.pairwise(counts))
        return None if rises else f"words by sentence: {counts[:9]}"

    return check


def build_sentence_keyword(arguments: Arguments) -> Check:
    """The `N`th sentence has the word, in any case (`word`)."""
    place, word = arguments.number("N", smallest=1), arguments.text("word").strip()
    pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)

    def check(text: str) -> str | None:
        sentences = split_sentences(text)
        if len(sentences) < place:
            return f"{len(sentences)} sentences, fewer than {place}"
        return None if pattern.search(sentences[place - 1]) else f"sentence {place} without {word!r}"

    return check


def build_specific_position(arguments: Arguments) -> Check:
    """The `m`th word of the `n`th sentence is the keyword, in any case (`keyword`)."""
    keyword = arguments.text("keyword").strip().lower()
    n, m = arguments.number("n", smallest=1), arguments.number("m", smallest=1)

    def check(text: str) -> str | None:
        sentences = split_sentences(text)
        words = split_words(sentences[n - 1]) if len(sentences) >= n else []
        found = words[m - 1].lower() if len(words) >= m else None
        return None if found == keyword else f"word {m} of sentence {n} is {found!r}"

    return check


def build_words_position(arguments: Arguments) -> Check:
    """The second word and the last but one are the keyword, in any case (`keyword`)."""
    keyword = arguments.text("keyword").strip().lower()

    def check(text: str) -> str | None:
        words = [word.lower() for word in split_words(text)]
        is_there = len(words) > 1 and words[1] == words[-2] == keyword
        return None if is_there else f"{keyword!r} is not second and last but one"

    return check


def build_alphabet(arguments: Arguments) -> Check:
    """Each word begins with the letter after the one that the word before it begins with, `a` after `z`."""
    del arguments

    def check(text: str) -> str | None:
        firsts = [word[0] for word in split_plain(text)]
        if not all("a" <= letter <= "z" for letter in firsts):
            return "a word that does not begin with a letter of the alphabet"
        broken = next((b for a, b in itertools.pairwise(firsts) if (ord(a) - 96) % 26 != ord(b) - 97), None)
        return None if broken is None else f"a word with {broken!r} out of turn"

    return check


def build_vowel(arguments: Arguments) -> Check:
    """One paragraph with at most three of the five vowels."""
    del arguments

    def check(text: str) -> str | None:
        if "\n" in text.strip():
            return "more than one paragraph"
        vowels = {*"aeiou"} & {*text.lower()}
        return None if len(vowels) <= 3 else f"{len(vowels)} vowels"

    return check


def build_consonants(arguments: Arguments) -> Check:
    """Every word has two consonants side by side."""
    del arguments

    def check(text: str) -> str | None:
        other = next((word for word in text.lower().split() if not _CONSONANTS.search(word)), None)
        return None if other is None else f"{other[:40]!r} has no consonant cluster"

    return check


def build_palindrome(arguments: Arguments) -> Check:
    """At least ten words of five letters or more read the same backwards."""
    del arguments

    def check(text: str) -> str | None:
        count = sum(len(word) > 4 and word == word[::-1] for word in split_plain(text))
        return None if count >= 10 else f"{count} palindromes, not 10"

    return check


def build_prime_lengths(arguments: Arguments) -> Check:
    """Every word, without punctuation, has a prime number of letters."""
    del arguments

    def check(text: str) -> str | None:
        other = next((word for word in split_plain(text) if len(word) not in _PRIMES), None)
        return None if other is None else f"{other[:40]!r} has {len(other)} letters"

    return check


def build_repeats(arguments: Arguments) -> Check:
    """No word occurs more than `small_n` times."""
    highest = arguments.number("small_n", smallest=1)

    def check(text: str) -> str | None:
        word, count = Counter(split_plain(text)).most_common(1)[0] if split_plain(text) else ("", 0)
        return None if count <= highest else f"{word[:40]!r} {count} times"

    return check


def build_no_consecutive(arguments: Arguments) -> Check:
    """No two words side by side begin with the same letter."""
    del arguments

    def check(text: str) -> str | None:
        pair = next(((a, b) for a, b in itertools.pairwise(split_plain(text)) if a[0] == b[0]), None)
        return None if pair is None else f"{pair[0][:40]!r} before {pair[1][:40]!r}"

    return check


def build_last_first(arguments: Arguments) -> Check:
    """The last word of each sentence is the first of the next, and there are two."""
    del arguments

    def check(text: str) -> str | None:
        words = [split_plain(sentence) for sentence in split_sentences(text)]
        is_chain = len(words) > 1 and all(a and b and a[-1] == b[0] for a, b in itertools.pairwise(words))
        return None if is_chain else "a sentence that does not begin with the last word before it"

    return check


def build_paragraph_last_first(arguments: Arguments) -> Check:
    """Each line ends with the word that it begins with."""
    del arguments

    def check(text: str) -> str | None:
        lines = [words for line in text.split("\n") if (words := split_plain(line))]
        other = next((words for words in lines if words[0] != words[-1]), None)
        return None if other is None else f"a paragraph from {other[0][:40]!r} to {other[-1][:40]!r}"

    return check
