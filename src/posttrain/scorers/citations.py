"""Citations: every cited id is one of the problem's sources, and that source supports the sentence that cites it.

Column `sources`: id -> a passage (text); or a list of passages, with the ids 1, 2, ...; or, in place of a passage,
facts: `{entity, attribute, value}`, a list of such, or `{entity: ...}` for all that the scorer's knowledge base holds
of it. Sentences that cite facts must be in the grammar of `claims`; for passages the rules are those of
`citation_support`.

Stated, parts apart (after citation recall and precision of Gao et al. 2023, arXiv:2305.14627, with rules in place of a
model of entailment):

    resolved  = citations whose id is a source / citations
    supported = citations whose source supports the sentence / citations
    coverage  = sentences that one of their citations supports / sentences

The value is the harmonic mean of `supported` and `coverage`: all ids on each sentence lower the first, uncited
sentences the second. One id that is no source makes it 0. It cannot judge paraphrase, changed order, what takes two
sentences or two sources to say, nor whether anything is left out: what is undecided is counted and worth
`undecided_value`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.citation_support import Passage, Support, Term, read_terms
from posttrain.scorers.claim_sentences import split_sentences
from posttrain.scorers.claims import extract_claims, judge_claim
from posttrain.scorers.knowledge_base import KnowledgeBase, build_knowledge_base
from posttrain.scorers.reasoning import ANSWER_ONLY, ReasoningBlock, read_reply

DEFAULT_PATTERN = r"\[((?:[A-Za-z]+[-_]?)?\d+(?:\s*[,;]\s*(?:[A-Za-z]+[-_]?)?\d+)*)\](?!\()"
"""`[1]`, `[doc-3]`, `[1, 2]`; a Markdown link `[1](address)` is none."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """Facts as a source; `entity` is the only one that it speaks of, or None."""

    base: KnowledgeBase
    entity: str | None = None

    def judge(self, sentence: str) -> tuple[Support, str]:
        """Return whether every claim of a sentence is supported."""
        judged = [judge_claim(claim, self.base) for claim in extract_claims(sentence, self.base).claims]
        if not judged:
            return "undecided", "the sentence is not in the grammar of claims"
        for item in judged:
            if self.entity is not None and item.entity != self.entity:
                return "unsupported", f"the source does not speak of {item.claim.entity!r}"
            if item.verdict != "supported":
                return ("unsupported" if item.verdict == "contradicted" else "undecided"), item.why
        return "supported", "the facts say it"


@dataclass(slots=True)
class _Count:
    """What is counted over a completion."""

    num_sentences: int = 0
    num_cited: int = 0
    num_citations: int = 0
    num_resolved: int = 0
    num_supported: int = 0
    num_undecided: int = 0
    num_covered: int = 0
    num_half_covered: int = 0
    whys: list[str] = field(default_factory=list)


class CitationScorer:
    """Scores the citations of a completion by its sources (`core.protocols.Scorer`).

    Args:
        pattern: A regular expression for a citation, with one group that holds the id, or ids between commas.
        knowledge_base: What sources of the form `{entity: ...}` speak of.
        undecided_value: What a citation that the rules cannot judge is worth, in [0, 1].
        reasoning: The block that is no part of the answer; an unfinished one is unparsed.

    A sentence said twice counts once; questions, headings and sentences of fewer than two terms do not count. A
    citation after a full stop belongs to the sentence before it.
    """

    name = "citations"

    def __init__(
        self,
        *,
        pattern: str = DEFAULT_PATTERN,
        knowledge_base: KnowledgeBase | None = None,
        undecided_value: float = 0.0,
        reasoning: ReasoningBlock | None = ANSWER_ONLY,
    ) -> None:
        if re.compile(pattern).groups != 1:
            raise ValueError(f"pattern must have one group, the id; found {re.compile(pattern).groups} in {pattern!r}")
        if not 0.0 <= undecided_value <= 1.0:
            raise ValueError(f"undecided_value must be in [0, 1], found {undecided_value!r}")
        self.pattern = pattern
        self.knowledge_base = knowledge_base
        self.undecided_value = undecided_value
        self.reasoning = reasoning

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem has no `sources`, or one that cannot be used.
        """
        sources: dict[int, dict[str, Passage | _Facts]] = {}  # completions of one problem share them within a call
        outcomes = []
        for problem, completion in items:
            if id(problem) not in sources:
                sources[id(problem)] = self._read_sources(problem)
            outcomes.append(self._score(sources[id(problem)], completion))
        return outcomes

    def _score(self, sources: Mapping[str, Passage | _Facts], completion: Completion) -> Outcome:
        text = read_reply(completion, self.reasoning)
        if isinstance(text, Outcome):
            return text
        count = _Count()
        for sentence, ids in self._read_sentences(text).items():
            self._judge_sentence(sentence, ids, sources, count)
        if not count.num_sentences:
            return Outcome("unparsed", 0.0, why="no sentence to judge", fault="policy")
        return self._sum_up(count)

    def _read_sentences(self, text: str) -> dict[str, list[str]]:
        """Return each sentence without its citations, and the ids that it cites, each once, in order."""
        marker = re.compile(self.pattern)
        after_stop = re.compile(rf"(?<![.!?])([.!?]++)((?:\s*(?:{_without_groups(self.pattern)}))+)")
        found: dict[str, list[str]] = {}
        for line in text.splitlines():
            if line.lstrip().startswith("#"):
                continue
            moved = after_stop.sub(lambda stop: f"{stop[2]}{stop[1]} ", line)
            for sentence in split_sentences(moved):
                ids = [part.strip() for cited in marker.findall(sentence) for part in re.split(r"[,;]", cited)]
                bare = " ".join(marker.sub(" ", sentence).split())
                if ids or not bare.endswith("?"):
                    kept = found.setdefault(bare, [])
                    kept.extend(one for one in dict.fromkeys(ids) if one not in kept)
        return found

    def _judge_sentence(
        self, sentence: str, ids: list[str], sources: Mapping[str, Passage | _Facts], count: _Count
    ) -> None:
        terms = read_terms(sentence)
        if not ids and len(terms) < 2:
            return
        count.num_sentences += 1
        count.num_cited += bool(ids)
        count.num_citations += len(ids)
        if not ids:
            count.whys.append(f"uncited: {sentence[:60]!r}")
        verdicts = set()
        for cited in ids:
            if cited not in sources:
                count.whys.insert(0, f"[{cited}] is no source")
                continue
            support, why = _judge(sources[cited], sentence, terms)
            count.num_resolved += 1
            count.num_supported += support == "supported"
            count.num_undecided += support == "undecided"
            verdicts.add(support)
            if support != "supported":
                count.whys.append(f"[{cited}]: {why}")
        count.num_covered += "supported" in verdicts
        count.num_half_covered += "supported" not in verdicts and "undecided" in verdicts

    def _sum_up(self, count: _Count) -> Outcome:
        worth = self.undecided_value
        precision = (count.num_supported + worth * count.num_undecided) / max(1, count.num_citations)
        covered = (count.num_covered + worth * count.num_half_covered) / count.num_sentences
        is_fabricated = count.num_resolved < count.num_citations
        value = 0.0 if is_fabricated or not precision + covered else 2 * precision * covered / (precision + covered)
        parts = {
            "citations": float(count.num_citations),
            "sentences": float(count.num_sentences),
            "uncited": float(count.num_sentences - count.num_cited),
            "undecided": float(count.num_undecided),
            "resolved": count.num_resolved / max(1, count.num_citations),
            "supported": count.num_supported / max(1, count.num_citations),
            "coverage": count.num_covered / count.num_sentences,
        }
        return Outcome("scored", value, why=count.whys[0] if count.whys else "every citation holds", parts=parts)

    def _read_sources(self, problem: Problem) -> dict[str, Passage | _Facts]:
        cell = problem.columns.get("sources")
        if isinstance(cell, list):
            cell = {str(number): source for number, source in enumerate(cell, 1)}
        if not isinstance(cell, Mapping) or not cell:
            raise DataError(
                f"'sources' is {cell!r}" if "sources" in problem.columns else "no column 'sources'",
                expected="a mapping of id to passage or facts, or a list of passages",
                cure="map it in the task's data, columns: {sources: <your column>}",
                place=problem.problem_id,
            )
        return {
            str(name): self._read_source(source, f"{problem.problem_id}: source {name}")
            for name, source in cell.items()
        }

    def _read_source(self, source: Any, place: str) -> Passage | _Facts:
        if isinstance(source, str) and source.strip():
            return Passage(source)
        if isinstance(source, Mapping) and set(source) == {"entity"}:
            base = self.knowledge_base
            entity = base.find_entity(str(source["entity"])) if base is not None else None
            if base is not None and entity is not None:
                return _Facts(base, entity)
        elif isinstance(source, Mapping):
            return _Facts(build_knowledge_base([source], place=place))
        elif isinstance(source, list) and source:
            return _Facts(build_knowledge_base(source, place=place))
        raise DataError(
            f"the source is {source!r:.100}",
            expected="a passage that is not empty, {entity, attribute, value}, or {entity} of the knowledge base",
            cure="correct the row; {entity} needs a scorer with that knowledge base",
            place=place,
        )


def _without_groups(pattern: str) -> str:
    """Return a pattern whose one group is not captured, to stand inside another."""
    return re.sub(r"(?<!\\)\((?!\?)", "(?:", pattern)


def _judge(source: Passage | _Facts, sentence: str, terms: list[Term]) -> tuple[Support, str]:
    return source.judge(sentence) if isinstance(source, _Facts) else source.judge(terms)
