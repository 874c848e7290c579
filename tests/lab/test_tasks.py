"""The lab's rows: right answers, splits that share nothing, and the same bytes everywhere."""

import re
import subprocess
import sys
from itertools import islice

import pytest

from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_json
from posttrain.lab.source import LAB_VERSION, NUM_ROWS, lab_rows
from posttrain.lab.tasks import SKILLS, SPLIT_PERCENT, WORDS, find_split

OTHER_SPLITS = [split for split in SPLIT_PERCENT if split != "train"]


@pytest.fixture(scope="module")
def conversations():
    return {split: list(lab_rows("conversations", split)) for split in SPLIT_PERCENT}


@pytest.fixture(scope="module")
def documents():
    return [row["text"] for row in lab_rows("documents", "train")]


def question_of(row):
    return row["messages"][0]["content"]


def answer_in_another_way(skill, question):
    """Work the answer out from the wording alone, sharing no code with the lab."""
    numbers = [int(number) for number in re.findall(r"\d+", question)]
    words = [word for word in re.findall(r"\b[a-z]+\b", question) if word in WORDS]
    if skill.startswith("add"):
        return str(numbers[0] + numbers[1])
    if skill.startswith("subtract"):
        return str(max(numbers) - min(numbers))
    lists = {
        "uppercase": [word.upper() for word in words],
        "reverse": words[::-1],
        "first_word": words[:1],
        "last_word": words[-1:],
        "count_words": [str(len(words))],
        "sort_words": sorted(words),
        "repeat_word": words * (numbers[0] if numbers else 0),
    }
    return ", ".join(lists[skill])


@pytest.mark.parametrize("split", SPLIT_PERCENT)
def test_every_answer_is_right(conversations, split):
    for row in conversations[split]:
        assert row["answer"] == answer_in_another_way(row["skill"], question_of(row)), row
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["messages"][1]["content"] == row["answer"]


@pytest.mark.parametrize(
    ("name", "operands", "answer"),
    [
        ("add_one_digit", ("3", "4"), "7"),
        ("add_two_digits", ("61", "35"), "96"),
        ("subtract_one_digit", ("9", "9"), "0"),
        ("subtract_two_digits", ("48", "17"), "31"),
        ("uppercase", ("red", "fox"), "RED, FOX"),
        ("reverse", ("sun", "ant", "hat"), "hat, ant, sun"),
        ("first_word", ("owl", "pig"), "owl"),
        ("last_word", ("owl", "pig"), "pig"),
        ("count_words", ("cat", "cow", "cup", "dog"), "4"),
        ("sort_words", ("dog", "cup", "cat"), "cat, cup, dog"),
        ("repeat_word", ("hen", "3"), "hen, hen, hen"),
    ],
)
def test_each_skill_has_the_answer_known_by_hand(name, operands, answer):
    (skill,) = [skill for skill in SKILLS if skill.name == name]
    assert skill.solve(operands) == answer


def facts_of(text):
    """Return what a line asks or tells, whatever its wording: its numbers and words, without any order.

    Differences keep the order of their numbers by size, and differ from sums by their sign or words.
    """
    line = text.lower()
    numbers = tuple(sorted(int(number) for number in re.findall(r"\d+", line)))
    words = frozenset(re.findall(r"[a-z]+", line)) & frozenset(WORDS)
    is_difference = bool(re.search(r" - |\btake\b|\bminus\b|\bleft\b", line))
    return numbers, words, is_difference


def facts_of_document(text):
    """Return the facts of each line of a document, except its sentences about no problem."""
    facts = set()
    for line in text.split("\n"):
        question = line.removeprefix("Q: ")
        numbers, words, is_difference = facts_of(question)
        if line.startswith("A:") or "near the" in line or "I see" in line or "by the" in line or "are here" in line:
            continue
        if not line.startswith("Q: ") and not words:
            numbers = facts_of(re.sub(r"(= |to get )\d+\.", "", line))[0]
        if not line.startswith("Q: ") and line.startswith("There are"):
            numbers = ()
        facts.add((numbers, words, is_difference))
    return facts


def test_facts_are_read_from_any_wording():
    assert facts_of("What is 3 + 4?") == facts_of("Add 4 and 3.") != facts_of("4 - 3 =")
    assert facts_of_document("3 + 4 = 7.") == facts_of_document("Q: Add 4 and 3.\nA: 7")
    assert facts_of_document("In order, fox, ant is ant, fox.") == facts_of_document("Q: Uppercase: ant, fox\nA: ANT")
    assert facts_of_document("There are 2 words in fox, ant.") == facts_of_document("Q: Write backwards: ant, fox\nA:")


@pytest.fixture(scope="module")
def trained_facts(conversations, documents):
    asked = {facts_of(question_of(row)) for row in conversations["train"]}
    return asked | {fact for text in documents for fact in facts_of_document(text)}


@pytest.mark.parametrize("split", OTHER_SPLITS)
def test_nothing_of_another_split_is_asked_or_told_in_training(conversations, trained_facts, split):
    held = {facts_of(question_of(row)) for row in conversations[split]}
    assert len(trained_facts) > 3_000
    assert len(held) > 150
    assert trained_facts & held == set()


def test_no_content_lies_in_two_splits(conversations):
    for split, rows in conversations.items():
        assert {find_split(row["content"]) for row in rows} == {split}


def test_the_same_words_and_sums_in_another_order_have_the_same_content():
    by_name = {skill.name: skill for skill in SKILLS}
    assert by_name["reverse"].content(("fox", "ant")) == by_name["sort_words"].content(("ant", "fox"))
    assert by_name["add_two_digits"].content(("12", "34")) == by_name["add_two_digits"].content(("34", "12"))
    assert by_name["subtract_one_digit"].content(("9", "4")) != by_name["add_one_digit"].content(("9", "4"))


def mask_operands(question):
    return re.sub(r"\d+|\b(" + "|".join(WORDS) + r")\b(, )?", "*", question)


def test_perturbed_questions_share_no_wording_with_any_other_split(conversations):
    perturbed = {mask_operands(question_of(row)) for row in conversations["perturbed"]}
    others = {
        mask_operands(question_of(row)) for split, rows in conversations.items() if split != "perturbed" for row in rows
    }
    assert perturbed & others == set()


@pytest.mark.parametrize("split", OTHER_SPLITS)
def test_no_question_occurs_twice_outside_training(conversations, split):
    questions = [question_of(row) for row in conversations[split]]
    assert len(set(questions)) == len(questions) == NUM_ROWS["conversations"][split]


@pytest.mark.parametrize("split", SPLIT_PERCENT)
def test_every_skill_occurs_in_every_split(conversations, split):
    assert {row["skill"] for row in conversations[split]} == {skill.name for skill in SKILLS}


def test_documents_ask_tell_and_talk(documents):
    text = "\n".join(documents[:200])
    assert re.search(r"^Q: .+\nA: .+$", text, re.MULTILINE)
    assert re.search(r"^In capitals, .+ is [A-Z, ]+\.$", text, re.MULTILINE)
    assert re.search(r"^I see a \w+ and a \w+\.$", text, re.MULTILINE)
    assert "assistant" not in text.lower()


def test_rows_are_the_same_in_every_process():
    program = (
        "from itertools import islice; from posttrain.core.hashing import hash_json;"
        "from posttrain.lab.source import lab_rows;"
        "print(hash_json([list(islice(lab_rows(n, 'train'), 300)) for n in ('conversations', 'documents')]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {hash_json([list(islice(lab_rows(name, "train"), 300)) for name in ("conversations", "documents")])}


def test_the_version_names_exactly_these_rows():
    """Where a row changes, LAB_VERSION must change too: fingerprints of lab data hold nothing else."""
    rows = [list(lab_rows(name, split)) for name, splits in NUM_ROWS.items() for split in splits]
    assert {LAB_VERSION: hash_json(rows)} == {"1": "82071ccc7a58aa0444441a047333943c"}


@pytest.mark.parametrize(
    ("name", "split", "said"),
    [
        ("conversation", "train", "conversations"),
        ("conversations", "heldout", "held_out"),
        ("documents", "final", "no"),
    ],
)
def test_unknown_sets_and_splits_are_refused_with_a_suggestion(name, split, said):
    with pytest.raises(DataError, match=said):
        lab_rows(name, split)
