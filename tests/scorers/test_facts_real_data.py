"""Facts on public sets: gold answers are accepted for their questions only, and sentences about Wikidata are judged."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from posttrain.scorers.citations import CitationScorer
from posttrain.scorers.claim_sentences import split_sentences
from posttrain.scorers.claims import extract_claims, judge_claim
from posttrain.scorers.facts import ClaimFacts, ShortAnswerFacts, read_gold
from posttrain.scorers.knowledge_base import KnowledgeBase, build_knowledge_base
from posttrain.scorers.typed_values import read_value
from tests.scorers.fact_items import make_item

pytestmark = pytest.mark.real_data

SETS = {
    "triviaqa_sub.jsonl.gz": (3000, {"answer": "answer", "aliases": "aliases"}),
    "nq_open_dev.jsonl": (3610, {"answers": "answer"}),
    "jeopardy_all.jsonl": (2117, {"answer": "continuation"}),
    "bigbench_qa_wikidata.jsonl.gz": (20321, {"answer": "continuation"}),
}


def read_lines(path: Path) -> list[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.splitlines()]


def read_set(real_data: Path, name: str) -> list[dict[str, Any]]:
    number, columns = SETS[name]
    rows = read_lines(real_data / "facts" / name)
    assert len(rows) == number
    return [{ours: row[theirs] for ours, theirs in columns.items()} for row in rows]


@pytest.mark.invariants  # tens of seconds
@pytest.mark.parametrize("name", SETS)
def test_every_gold_answer_is_accepted_as_itself_and_for_its_question_only(name: str, real_data: Path) -> None:
    rows = read_set(real_data, name)
    gold = [read_gold(make_item("x", row)[0]) for row in rows]
    own = [
        make_item(variant, row)
        for row, texts in zip(rows, gold, strict=True)
        for text in texts
        for variant in (text, f" {text}. ")
        if variant == text or any(letter.isalnum() for letter in text)  # `)` and a full stop are another text
    ]
    outcomes = ShortAnswerFacts().score(own)
    assert [item[1].text for item, outcome in zip(own, outcomes, strict=True) if outcome.value != 1.0] == []

    generator = random.Random(17)
    pairs = [(index, generator.randrange(len(rows))) for index in range(len(rows)) for _ in range(3)]
    others = [make_item(gold[other][0], rows[index]) for index, other in pairs]
    accepted = 0
    for (index, other), outcome in zip(pairs, ShortAnswerFacts().score(others), strict=True):
        if outcome.value == 1.0:
            accepted += 1
            same = {key for text in gold[index] for key in read_value(text).keys()}  # noqa: SIM118 - no dictionary
            assert same & read_value(gold[other][0]).keys(), (gold[index], gold[other][0])
            assert (
                ShortAnswerFacts().score([make_item(gold[other][0], {"gold": ["\u2603", *gold[index]]})])[0].value
                == 1.0
            )
    extended = ShortAnswerFacts().score(
        [make_item(f"{text[0]} and more", row) for text, row in zip(gold, rows, strict=True)]
    )
    assert sum(outcome.value for outcome in extended) == 0
    print(f"{name}: {len(own)} own answers accepted; {accepted} of {len(pairs)} others', each the same answer")


@pytest.fixture(scope="module")
def wikidata(real_data: Path) -> tuple[KnowledgeBase, list[tuple[str, str, str]]]:
    """The rows `The <attribute> of <entity> is` as facts; the few entities whose spellings clash are left out."""
    facts, clashing = {}, {"European Union", "Netherlands", "United Kingdom", "oran", "Oklahoma!", "canton"}
    for row in read_lines(real_data / "facts" / "bigbench_qa_wikidata.jsonl.gz"):
        found = re.fullmatch(r"The (country of citizenship|.+?) of (.+) is", row["context"])
        if found and "used in" not in found[1] and found[2].removeprefix("the ") not in clashing:
            facts[found[2], found[1], row["continuation"]] = None
    declared = {"multiple": True, "complete": True}
    rows = [{"entity": e, "attribute": a, "value": v, **declared} for e, a, v in facts]
    return build_knowledge_base(rows), list(facts)


def test_a_sentence_about_wikidata_is_supported_its_denial_and_another_value_contradicted(
    wikidata: tuple[KnowledgeBase, list[tuple[str, str, str]]],
) -> None:
    base, facts = wikidata
    generator = random.Random(17)
    values = sorted({value for _, _, value in facts})
    scorer = ClaimFacts(knowledge_base=base)
    texts = [f"The {attribute} of {entity} is {value}." for entity, attribute, value in facts]
    denials = [f"The {attribute} of {entity} is not {value}." for entity, attribute, value in facts]
    right = scorer.score([make_item(text, {}) for text in texts])
    denied = scorer.score([make_item(text, {}) for text in denials])
    assert [text for text, outcome in zip(texts, right, strict=True) if outcome.value != 1.0] == []
    assert [text for text, outcome in zip(denials, denied, strict=True) if outcome.parts["contradicted"] != 1.0] == []
    known = {(entity, attribute): base.find_values(base.find_entity(entity) or "", base.find_attribute(attribute) or "")
             for entity, attribute, _ in facts}  # fmt: skip
    wrong = []
    for entity, attribute, _ in facts:
        value = generator.choice(values)
        if value.casefold() not in {text.casefold() for text in known[entity, attribute]}:
            wrong.append(f"The {attribute} of {entity} is {value}.")
    outcomes = scorer.score([make_item(text, {}) for text in wrong])
    assert [text for text, outcome in zip(wrong, outcomes, strict=True) if outcome.parts["contradicted"] != 1.0] == []
    print(f"wikidata: {len(texts)} supported, {len(denials)} denials and {len(wrong)} other values contradicted")


def test_free_text_with_human_labels_is_read_without_a_false_verdict_and_mostly_left_unread(
    wikidata: tuple[KnowledgeBase, list[tuple[str, str, str]]], real_data: Path
) -> None:
    base, _ = wikidata
    claims = [
        claim for row in read_lines(real_data / "judge" / "factool_knowledge_qa.jsonl") for claim in row["claims"]
    ]
    atoms = [
        fact["text"]
        for row in read_lines(real_data / "judge" / "factscore_labeled_ChatGPT.jsonl.gz")
        for sentence in row["annotations"] or []
        for fact in sentence.get("human-atomic-facts") or []
    ]
    counts = {"supported": 0, "contradicted": 0, "unknown": 0, "unread": 0}
    for text in [*(claim["claim"] for claim in claims), *atoms]:
        found = extract_claims(text, base)
        counts["unread"] += found.num_unread
        for claim in found.claims:
            counts[judge_claim(claim, base).verdict] += 1
    print(f"factool and factscore, {len(claims)} and {len(atoms)} labelled claims: {counts}")
    assert sum(counts.values()) >= len(claims) + len(atoms)
    assert counts["contradicted"] == 0


def test_a_sentence_of_a_real_passage_is_supported_by_that_passage_and_by_no_other(real_data: Path) -> None:
    rows = read_lines(real_data / "facts" / "pubmed_qa_labeled.jsonl.gz")[:300]
    passages = [row["context"].removeprefix("Context: ") for row in rows]
    scorer = CitationScorer()
    own, other = [], []
    for index, passage in enumerate(passages):
        sentences = split_sentences(passage.splitlines()[0])
        sentence = sentences[1].replace("[", "(").replace("]", ")").rstrip(".") if len(sentences) > 1 else ""
        if len(sentence.split()) < 8:
            continue
        sources = {"1": passage, "2": passages[(index + 1) % len(passages)]}
        own.append(make_item(f"{sentence} [1].", {"sources": sources}))
        other.append(make_item(f"{sentence} [2].", {"sources": sources}))
    supported = sum(outcome.value for outcome in scorer.score(own))
    assert sum(outcome.value for outcome in scorer.score(other)) == 0.0
    print(f"pubmed: {supported:.0f} of {len(own)} verbatim sentences supported by their passage, 0 by another")
    assert supported >= 0.9 * len(own)
