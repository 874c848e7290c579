"""The index of evaluation items in which training texts are looked up.

A text becomes a string with one character for each word, so that runs of words are substrings: they are sliced,
hashed and found by the string's own routines, compared exactly, and no hash can mistake one run for another. Words
that no evaluation item has end a run.

Cost: building is linear in the words of the items. A training text of T words costs O(T) look-ups of its n-grams, and
one linear substring search for each run whose rarest n-gram it holds; memory is that of the index and of one row.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate, repeat
from typing import Literal

from pydantic import Field

from posttrain.core.config import Config
from posttrain.core.errors import DataError
from posttrain.data.evaluation_items import EvaluationItem, TrainingText
from posttrain.data.near_questions import DEFAULT_NEAR, NearQuestions
from posttrain.data.word_tokens import read_figures_folded

Kind = Literal["whole", "ngrams", "answered", "near", "key"]
KINDS: tuple[Kind, ...] = ("whole", "ngrams", "answered", "near", "key")

SHARED_ITEMS = 3
"""What fewer items share is never boilerplate, however few items there are."""

_UNKNOWN = "\0"
_MAX_WORDS = 0x10FFFF  # one character each
_ANCHORS = 16  # n-grams of a run among which the rarest is looked up
_PHRASE = 4  # words of the shortest run that can be boilerplate
_CONTEXT = 6  # words of a passage shown on either side of the match
_SHOWN = 40  # words of a match that are shown
_SHOWN_CHARACTERS = 40  # of each word


class ContaminationSettings(Config):
    """When an evaluation item counts as contaminated.

    `ngram` is the length of an n-gram in words, and `threshold` the share of an item's own words that n-grams of one
    training row must cover. A run of fewer than `min_words` words is too short to tell anything. A run of four words
    that more than `boilerplate_fraction` of the different questions hold, three of them at least, is boilerplate: its
    words are no item's own, and an n-gram of nothing else does not count. `near` is the share of a question's own pairs
    of words that a stretch of one row must hold, with all its figures and operators; none looks for no near ones.
    """

    ngram: int = Field(8, ge=2, le=64)
    threshold: float = Field(0.5, gt=0.0, le=1.0)
    min_words: int = Field(5, ge=1, le=64)
    boilerplate_fraction: float = Field(0.01, ge=0.0, le=1.0)
    near: float | None = Field(DEFAULT_NEAR, gt=0.0, le=1.0)


@dataclass(frozen=True, slots=True)
class Hit:
    """One way in which a training row contaminates an item.

    Made by `ContaminationIndex.search`, read by `decontamination.find_contamination`. `covered` is the share of the
    item's own words that the row's n-grams cover, for `near` of its own pairs of words, 1 for the other kinds. The
    passage is in normalised words, the match in brackets. `is_asked` says of `whole` that a user's message is the
    question and nothing else.
    """

    item: int
    kind: Kind
    covered: float
    passage: str
    is_asked: bool = False


@dataclass(slots=True)
class RowFindings:
    """What a training row holds of the evaluation items: hits, n-grams that any of them has, and its words."""

    hits: list[Hit] = field(default_factory=list)
    ngrams: set[str] = field(default_factory=set)
    num_words: int = 0


@dataclass(slots=True)
class _Question:
    """One of the different questions: its words as characters, and which of them count as its own.

    `own_before[i]` is how many of the first i words are its own: in an n-gram that counts, and in no boilerplate.
    `core` is the question without boilerplate n-grams at its ends: a shorter phrase there may be all that it asks.
    """

    text: str
    items: list[int]
    own_before: array[int] = field(default_factory=lambda: array("I", [0]))
    core: str = ""


class ContaminationIndex:
    """Evaluation items, ready to be looked for in training texts.

    Args:
        items: The items; a report names them by their ids and keeps their order.
        settings: When an item counts as contaminated.

    Raises:
        DataError: A content key has no word, or the items have over a million different words.
    """

    def __init__(self, items: Iterable[EvaluationItem], settings: ContaminationSettings | None = None) -> None:
        self.items = tuple(items)
        self.settings = settings or ContaminationSettings()
        self._codes: dict[str, str] = {}
        self._vocabulary: list[str] = []
        self._questions = self._read_questions()
        self._numbers = {item: number for number, question in enumerate(self._questions) for item in question.items}
        self._limit = max(SHARED_ITEMS - 1, self.settings.boilerplate_fraction * len(self._questions))
        self._postings = self._index_ngrams()
        self._targets: dict[str, list[tuple[int, Kind]]] = self._list_runs()
        self._short, self._anchors = self._index_runs()
        self._ngrams = {*self._postings, *self._anchors}
        self._shortest = min([*self._short, self.settings.ngram])
        texts = [question.text for question in self._questions]
        self._near = NearQuestions(texts, self._codes, self._limit, self.settings.near)

    def find_searched(self) -> dict[Kind, set[int]]:
        """Return for each kind the items that it can find; what is in none of them is too short to tell."""
        found: dict[Kind, set[int]] = {kind: set() for kind in KINDS}
        for pairs in self._targets.values():
            for item, kind in pairs:
                found[kind].add(item)
        for question in self._questions:
            if self._is_judged(question):
                found["ngrams"].update(question.items)
        for number in self._near.list_judged():
            found["near"].update(self._questions[number].items)
        return found

    def search(self, row: TrainingText) -> RowFindings:
        """Return what a training row holds of the evaluation items."""
        findings = RowFindings()
        found: dict[str, str] = {}
        near: dict[int, tuple[float, str]] = {}
        for text in row.texts:
            folded, words = read_figures_folded(text)
            findings.num_words += len(words)
            encoded = "".join(map(self._codes.get, folded, repeat(_UNKNOWN)))
            for number, share, start, end in self._near.search(encoded):
                if number not in near or share > near[number][0]:
                    near[number] = (share, show_passage(words, start, end - start))
            start = 0
            for run in encoded.split(_UNKNOWN):
                if len(run) >= self._shortest:
                    for pattern, place in self._find_runs(run, findings.ngrams):
                        if pattern not in found:
                            found[pattern] = show_passage(words, start + place, len(pattern))
                start += len(run) + 1
        for pattern, passage in found.items():
            findings.hits += [Hit(item, kind, 1.0, passage) for item, kind in self._targets[pattern]]
        findings.hits = self._mark_asked(row, findings.hits)
        findings.hits += self._judge_ngrams(findings.ngrams)
        plain = {hit.item for hit in findings.hits if hit.kind != "key"}
        for number, (share, passage) in near.items():
            findings.hits += [
                Hit(item, "near", share, passage) for item in self._questions[number].items if item not in plain
            ]
        findings.hits.sort(key=lambda hit: (hit.item, KINDS.index(hit.kind), hit.passage))
        findings.hits = list({(hit.item, hit.kind): hit for hit in reversed(findings.hits)}.values())[::-1]
        return findings

    def _mark_asked(self, row: TrainingText, hits: list[Hit]) -> list[Hit]:
        """Return the hits with those marked of which a user's message is the whole question."""
        if not row.asks or not any(hit.kind == "whole" for hit in hits):
            return hits
        asks = {"".join(map(self._codes.get, read_figures_folded(ask)[0], repeat(_UNKNOWN))) for ask in row.asks}
        return [
            replace(hit, is_asked=self._questions[self._numbers[hit.item]].text in asks) if hit.kind == "whole" else hit
            for hit in hits
        ]

    def compute_cover(self, item: int, ngrams: set[str]) -> float:
        """Return the share of an item's own words that n-grams cover, 0 to 1; 0 where it has too few of its own."""
        question = self._questions[self._numbers[item]]
        if not self._is_judged(question):
            return 0.0
        size = self.settings.ngram
        offsets = [start for start, ngram in enumerate(_slide(question.text, size)) if ngram in ngrams]
        return _measure_cover(question, offsets, size)[0]

    def _find_runs(self, run: str, ngrams: set[str]) -> Iterator[tuple[str, int]]:
        """Yield the listed runs that a run of known words holds, and where first; add its n-grams to the others."""
        for length, known in self._short.items():
            windows = _slide(run, length)
            yield from _locate(windows, known.intersection(windows)).items()
        windows = _slide(run, self.settings.ngram)
        held = self._ngrams.intersection(windows)
        ngrams |= held
        for ngram, place in _locate(windows, held & self._anchors.keys()).items():
            for pattern, offset in self._anchors[ngram]:
                start = max(0, place - offset)  # it begins here at the earliest, and here it is unless words differ
                if not run.startswith(pattern, start):
                    start = run.find(pattern, start)
                if start >= 0:
                    yield pattern, start

    def _judge_ngrams(self, ngrams: set[str]) -> list[Hit]:
        size, threshold = self.settings.ngram, self.settings.threshold
        touched: defaultdict[int, list[int]] = defaultdict(list)
        for ngram in ngrams:
            for number, start in self._postings.get(ngram, ()):
                touched[number].append(start)
        hits = []
        for number, offsets in touched.items():
            question = self._questions[number]
            if not self._is_judged(question) or len(offsets) * size < threshold * question.own_before[-1]:
                continue
            covered, start, end = _measure_cover(question, sorted(offsets), size)
            if covered >= threshold:
                words = [
                    self._vocabulary[ord(code) - 1] for code in question.text[start : min(end, start + _SHOWN + 1)]
                ]
                passage = show_passage(words, 0, end - start)
                hits += [Hit(item, "ngrams", covered, passage) for item in question.items]
        return hits

    def _is_judged(self, question: _Question) -> bool:
        """Return whether a question has n-grams, and enough words of its own to tell anything by them."""
        return question.own_before[-1] >= self.settings.min_words

    def _encode(self, text: str) -> str:
        codes = self._codes
        folded, shown = read_figures_folded(text)
        for word, as_shown in zip(folded, shown, strict=True):
            if word not in codes:
                codes[word] = chr(min(len(codes) + 1, _MAX_WORDS))
                self._vocabulary.append(as_shown)
        encoded = "".join(map(codes.__getitem__, folded))
        if len(codes) >= _MAX_WORDS:
            cure = "check it in several parts, one command each"
            raise DataError(f"the evaluation items have {len(codes):,} different words and more", cure=cure)
        return encoded

    def _read_questions(self) -> list[_Question]:
        questions: dict[str, _Question] = {}
        for index, item in enumerate(self.items):
            text = self._encode(item.question)
            questions.setdefault(text, _Question(text, [])).items.append(index)
        return list(questions.values())

    def _index_ngrams(self) -> dict[str, list[tuple[int, int]]]:
        """Return for each n-gram that is not all boilerplate the questions that hold it, and where first.

        A question that repeats an n-gram counts it once: a word said a thousand times is no thousand words.
        """
        size = self.settings.ngram
        phrases, frames = self._find_shared(min(_PHRASE, size)), self._find_shared(size)
        postings: dict[str, list[tuple[int, int]]] = {}
        for number, question in enumerate(self._questions):
            shared = _mark(question.text, phrases, min(_PHRASE, size))
            first: dict[str, int] = {}
            for start, ngram in enumerate(_slide(question.text, size)):
                if shared.find(0, start, start + size) >= 0:
                    first.setdefault(ngram, start)
            covered = bytearray(len(question.text))
            for ngram, start in first.items():
                covered[start : start + size] = b"\1" * size
                postings.setdefault(ngram, []).append((number, start))
            own = (c and not s for c, s in zip(covered, shared, strict=True))
            question.own_before = array("I", accumulate(own, initial=0))
            framed = _mark(question.text, frames, size)
            left, right = framed.find(0), framed.rfind(0)
            question.core = question.text[left : right + 1] if left >= 0 else ""
        return postings

    def _find_shared(self, length: int) -> set[str]:
        """Return the runs of a length that so many questions hold that they are boilerplate."""
        counts: Counter[str] = Counter()
        for question in self._questions:
            counts.update(set(_slide(question.text, length)))
        return {run for run, count in counts.items() if count > self._limit}

    def _list_runs(self) -> dict[str, list[tuple[int, Kind]]]:
        """Return the runs of words that are looked for as they stand, each with the items that it gives away."""
        targets: defaultdict[str, list[tuple[int, Kind]]] = defaultdict(list)
        cores = Counter(question.core for question in self._questions)
        asked: defaultdict[str, set[int]] = defaultdict(set)
        for number, question in enumerate(self._questions):
            answers = {item: [self._encode(answer) for answer in self.items[item].answers] for item in question.items}
            if len(set(map(tuple, answers.values()))) <= self._limit:
                is_core_telling = len(question.core) >= self.settings.min_words and cores[question.core] <= self._limit
                run = question.core if is_core_telling else question.text
                if len(run) >= self.settings.min_words:
                    targets[run] += [(item, "whole") for item in question.items]
            for item, encoded in answers.items():
                for run in self._join_answers(question.text, encoded):
                    targets[run].append((item, "answered"))
                    asked[run].add(number)
        for run in [run for run, numbers in asked.items() if len(numbers) > self._limit]:
            targets[run] = [target for target in targets[run] if target[1] != "answered"]
        for index, keyed in enumerate(self.items):
            for key in keyed.keys:
                run = self._encode(key)
                if not run:
                    cure = "give a key that has a letter or a digit"
                    raise DataError(f"the content key {key[:80]!r} has no word", cure=cure, place=keyed.item_id)
                targets[run].append((index, "key"))
        return {run: list(dict.fromkeys(pairs)) for run, pairs in targets.items() if pairs}

    def _join_answers(self, question: str, answers: Iterable[str]) -> Iterator[str]:
        """Yield the end of a question with each answer; of a short answer all of the question, which it tells less."""
        for answer in answers:
            end = question[-self.settings.ngram :] if len(answer) >= self.settings.min_words else question
            if end and answer and len(end) + len(answer) >= self.settings.min_words:
                yield end + answer

    def _index_runs(self) -> tuple[dict[int, set[str]], dict[str, list[tuple[str, int]]]]:
        """Return runs shorter than an n-gram by their length, and the others by one n-gram with its place in the run.

        It is the rarest of some, so that runs that begin alike are told apart before they are compared.
        """
        size = self.settings.ngram
        short: defaultdict[int, set[str]] = defaultdict(set)
        long: dict[str, dict[str, int]] = {}
        for run in self._targets:
            if len(run) < size:
                short[len(run)].add(run)
            else:
                step = max(1, -(-(len(run) - size + 1) // _ANCHORS))
                long[run] = {run[start : start + size]: start for start in range(0, len(run) - size + 1, step)}
        counts = Counter(ngram for places in long.values() for ngram in places)
        anchors: dict[str, list[tuple[str, int]]] = {}
        for run, places in long.items():
            ngram = min(places, key=counts.__getitem__)
            anchors.setdefault(ngram, []).append((run, places[ngram]))
        return dict(sorted(short.items())), anchors


def show_passage(words: list[str], start: int, length: int) -> str:
    """Return a match in brackets with a few words around it; the middle of a long one is left out.

    Args:
        words: What the match lies in; they may end inside it.
        start: The index of its first word.
        length: Its words.
    """
    before, after = words[max(0, start - _CONTEXT) : start], words[start + length : start + length + _CONTEXT]
    match = words[start : start + min(length, _SHOWN)]
    left_out = [f"... {length - _SHOWN:,} more words"] if length > _SHOWN else []
    shown = " ".join([*map(_shorten, match), *left_out])
    return " ".join([*map(_shorten, before), f"[{shown}]", *map(_shorten, after)])


def _shorten(word: str) -> str:
    return word if len(word) <= _SHOWN_CHARACTERS else word[:_SHOWN_CHARACTERS] + "..."


def _slide(run: str, length: int) -> list[str]:
    return [run[start : start + length] for start in range(len(run) - length + 1)]


def _mark(text: str, runs: set[str], length: int) -> bytearray:
    """Return for each word of a text 1 where one of some runs of a length covers it, else 0."""
    marks = bytearray(len(text))
    for start, run in enumerate(_slide(text, length)):
        if run in runs:
            marks[start : start + length] = b"\1" * length
    return marks


def _locate(windows: list[str], wanted: set[str]) -> dict[str, int]:
    """Return where each of some windows stands first."""
    places: dict[str, int] = {}
    if wanted:
        for start, window in enumerate(windows):
            if window in wanted:
                places.setdefault(window, start)
    return places


def _measure_cover(question: _Question, offsets: list[int], size: int) -> tuple[float, int, int]:
    """Return the share of a question's own words in n-grams at sorted offsets, and the longest stretch of such."""
    own, covered = question.own_before, 0
    best = (0, 0, 0)
    start = end = 0
    for offset in [*offsets, len(question.text) + 1]:
        if offset > end:  # the stretch so far ends before this n-gram begins
            covered += own[end] - own[start]
            best = max(best, (end - start, -start, -end))
            start = offset
        end = offset + size
    return covered / own[-1], -best[1], -best[2]
