"""Skills: their right replies are right by an independent reckoning, and every split asks about its own contents."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from posttrain.lab import lexicon
from posttrain.lab.demonstrations import write_reply
from posttrain.lab.questions import Skill
from posttrain.lab.skills.arithmetic import work_difference, work_sum
from posttrain.lab.skills.logic import solve_implications, solve_order
from posttrain.lab.skills.tools import run_tool
from posttrain.lab.splits import SPLIT_PERCENT, find_split
from posttrain.lab.style import PLAIN
from posttrain.lab.tasks import SKILLS, choose_skills, generate_questions
from posttrain.lab.world import build_world

WORLD = build_world()
STEP = re.compile(r"([\d+\- ]+) = (\d+)\.")


def named(name: str) -> Skill:
    return next(skill for skill in SKILLS if skill.name == name)


def draw(skill: Skill, split: str = "train", count: int = 60, seed: int = 1):
    return list(generate_questions([skill], WORLD, split, count, seed))


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_every_split_has_questions_of_contents_of_its_own(skill: Skill) -> None:
    contents = {}
    for split in SPLIT_PERCENT:
        questions = draw(skill, split, 12)
        assert questions, split
        contents[split] = {question.content for question in questions}
        assert all(find_split(content) == split for content in contents[split])
        assert all(question.skill == skill.name and question.group == skill.group for question in questions)
    assert sum(map(len, contents.values())) == len(set().union(*contents.values()))


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_perturbed_questions_are_worded_in_ways_that_no_other_split_knows(skill: Skill) -> None:
    """With digits, words and names taken out, what is left of a perturbed prompt is left of no other."""
    names = {*lexicon.TOWNS, *lexicon.PEOPLE, *lexicon.WORDS, *lexicon.GOODS, *lexicon.FRUITS, *lexicon.PETS}

    def skeleton(text: str) -> str:
        words = re.sub(r"\[\w+\][^\n]*", "", re.sub(r"\d+", "", text)).replace(",", " ").split()
        return " ".join(word for word in words if word.strip(".?:!") not in names)

    usual = {skeleton(question.prompt) for question in draw(skill, "train", 200)}
    perturbed = {skeleton(question.prompt) for question in draw(skill, "perturbed", 40)}
    assert not usual & perturbed


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_no_wrong_reply_is_the_right_one(skill: Skill) -> None:
    for question in draw(skill):
        assert question.wrong
        for reply in question.wrong:
            same_answer = question.form == "answer" and reply.answer == question.right.answer
            assert reply != question.right and not same_answer


def test_questions_are_the_same_for_the_same_seed_and_occur_once_outside_of_training() -> None:
    skills = choose_skills(["arithmetic", "facts"])
    one, again, other = ([q.prompt for q in generate_questions(skills, WORLD, "held_out", 80, s)] for s in (4, 4, 5))
    assert one == again != other
    assert len(set(one)) == len(one)


@pytest.mark.parametrize("group", ["arithmetic"])
def test_sums_come_out_as_python_reckons_them_and_every_step_of_their_working_is_true(group: str) -> None:
    for skill in choose_skills([group]):
        for question in draw(skill, count=120):
            steps = STEP.findall(question.right.words)
            assert steps and all(eval(left) == int(total) for left, total in steps)
            if skill.name != "two_steps":
                terms = re.findall(r"\d+", question.prompt)
                operands = [int(term) for term in terms]
                is_sum = skill.name.startswith("add")
                expected = sum(operands) if is_sum else max(operands) - min(operands)
                assert question.right.answer == str(expected), question.prompt


def test_word_problems_come_out_as_their_numbers_say() -> None:
    for question in draw(named("two_steps"), count=120):
        start, *moves = [int(number) for number in re.findall(r"\d+", question.prompt)]
        verbs = re.findall(r"\b(buys|finds|gets|eats|sells|loses)\b", question.prompt)
        total = start
        for verb, amount in zip(verbs, moves, strict=True):
            total += amount if verb in ("buys", "finds", "gets") else -amount
        assert question.right.answer == str(total)


@pytest.mark.parametrize(
    ("first", "second", "working"),
    [
        (47, 38, "7 + 8 = 15. 4 + 3 + 1 = 8."),
        (99, 7, "9 + 7 = 16. 9 + 0 + 1 = 10."),
        (205, 395, "5 + 5 = 10. 0 + 9 + 1 = 10. 2 + 3 + 1 = 6."),
    ],
)
def test_sums_are_worked_digit_by_digit(first: int, second: int, working: str) -> None:
    assert work_sum(first, second) == working


@pytest.mark.parametrize(
    ("first", "second", "working"),
    [
        (52, 38, "12 - 8 = 4. 5 - 1 - 3 = 1."),
        (400, 1, "10 - 1 = 9. 10 - 1 - 0 = 9. 4 - 1 - 0 = 3."),
        (86, 23, "6 - 3 = 3. 8 - 2 = 6."),
    ],
)
def test_differences_are_worked_digit_by_digit(first: int, second: int, working: str) -> None:
    assert work_difference(first, second) == working


def test_a_training_sum_shows_no_step_that_is_held_back() -> None:
    """Steps whose first number has two digits are contents of their own."""
    for skill in choose_skills(["arithmetic", "pressure"]):
        for question in draw(skill, count=150):
            for left, _ in STEP.findall(question.right.words):
                terms = re.findall(r"\d+", left)
                if len(terms) != 2 or max(map(int, terms)) < 10:
                    continue
                first, second = (int(term) for term in terms)
                name = f"{min(first, second)} + {max(first, second)}" if "+" in left else f"{first} - {second}"
                is_borrowing = "-" in left and first < 20
                assert is_borrowing or find_split(name) == "train", (question.prompt, left)


def test_lists_come_out_as_python_says() -> None:
    solve = {
        "reverse": lambda words: " ".join(words[::-1]),
        "sort_words": lambda words: " ".join(sorted(words)),
        "count_words": lambda words: str(len(words)),
        "uppercase": lambda words: " ".join(words).upper(),
        "join": lambda words: "-".join(words),
        "first_word": lambda words: words[0],
        "last_word": lambda words: words[-1],
    }
    for name, function in solve.items():
        for question in draw(named(name)):
            words = re.findall(rf"\b(?:{'|'.join(lexicon.WORDS)})\b", question.prompt)
            assert question.right.answer == function(words), question.prompt


def test_orderings_have_the_one_solution_that_is_asked_for() -> None:
    for question in draw(named("order"), count=100):
        pairs = re.findall(r"(\w+) is \w+ than (\w+)\.", question.prompt)
        [order] = solve_order(pairs)
        asks_most = re.search(r"the (tallest|oldest|fastest)", question.prompt) is not None
        assert question.right.answer == (order[0] if asks_most else order[-1])


def test_a_puzzle_that_leaves_two_orders_open_is_seen_to_do_so() -> None:
    assert len(solve_order([("a", "b"), ("a", "c")])) == 2


@pytest.mark.parametrize(
    ("known", "asked", "answer"),
    [
        (("a", True), "c", "yes"),
        (("c", False), "a", "no"),
        (("c", True), "a", "unknown"),
        (("a", False), "c", "unknown"),
    ],
)
def test_conclusions_are_those_of_all_truth_assignments(known: tuple[str, bool], asked: str, answer: str) -> None:
    """From a -> b -> c: modus ponens, modus tollens, and the two fallacies, which tell nothing."""
    assert solve_implications([("a", "b"), ("b", "c")], known, asked) == answer


def test_all_three_conclusions_occur() -> None:
    answers = {question.right.answer for question in draw(named("conclusion"), count=100)}
    assert answers == {"yes", "no", "unknown"}


def test_tools_answer_what_is_true_and_say_what_they_cannot() -> None:
    town, goods = lexicon.TOWNS[0], lexicon.GOODS[0]
    assert run_tool(WORLD, "calculator", {"expression": "37 * 46"}) == "1702"
    assert run_tool(WORLD, "stock", {"town": town, "goods": goods}) == str(WORLD.stores[town, goods])
    for name, arguments in (
        ("calculator", {"expression": "__import__('os')"}),
        ("calculator", {}),
        ("stock", {"town": "Nowhere", "goods": goods}),
        ("weather", {}),
    ):
        assert run_tool(WORLD, name, arguments).startswith("error: ")


def test_calls_of_the_right_replies_give_their_answers() -> None:
    for skill in choose_skills(["tools"]):
        for question in draw(skill):
            told = [run_tool(WORLD, call["name"], call["arguments"]) for call in question.right.calls]
            if len(told) == 1:
                assert question.right.answer == told[0]
            if len(told) == 2:
                towns = [call["arguments"]["town"] for call in question.right.calls]
                assert question.right.answer == towns[int(int(told[1]) > int(told[0]))]


def test_a_sycophant_would_say_what_is_claimed_and_the_right_reply_does_not() -> None:
    for skill in choose_skills(["pressure"]):
        for question in draw(skill):
            claimed = question.columns["claimed"]
            assert question.columns["is_claim_right"] == (claimed == question.right.answer)
            assert str(claimed) in question.prompt
            if not question.columns["is_claim_right"]:
                assert question.wrong[0].answer == claimed


def test_forbidden_deeds_and_their_look_alikes_share_a_verb() -> None:
    verbs = {
        name: {question.columns["deed"] for question in draw(named(name), count=200)}
        for name in ("forbidden", "look_alike")
    }
    assert verbs["forbidden"] == verbs["look_alike"]
    assert all(question.columns["severity"] in (1, 2, 3) for question in draw(named("forbidden")))


def test_the_samples_in_the_documentation_are_what_is_generated() -> None:
    page = (Path(__file__).parents[2] / "docs" / "lab.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", page, re.MULTILINE)
    for skill in SKILLS:
        [(asked, right)] = [(asked, right) for name, asked, right in shown if name == skill.name]
        [question] = draw(skill, count=1)
        assert asked.split(" \u23ce ")[-1] in question.prompt.replace("\n", " \u23ce ")
        if not question.right.calls:
            written = write_reply(question, question.right, PLAIN, random.Random(0))
            assert right == written.replace("\n", " \u23ce ")
