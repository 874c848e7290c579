"""Solved examples before a question, plain-text prompts, and several right choices."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.chat.text_prompts import join_turns
from posttrain.core.errors import DataError
from posttrain.core.records import Message, Problem
from posttrain.evaluation.questions import read_question
from posttrain.evaluation.shots import Shots, show_problem
from posttrain.evaluation.task import ChoiceTask, GenerationTask

ROWS = {"source": "rows.jsonl"}


def ask(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def problem(number: int, **columns: Any) -> Problem:
    return Problem(f"rows:{number}", ask(f"{number} + 1 ="), {"answer": str(number + 1), **columns})


def generation(**changes: Any) -> GenerationTask:
    return GenerationTask(name="sums", data=ROWS, **{"shots": 2, "shots_from": ROWS, "shots_seed": None, **changes})


def test_the_first_examples_stand_before_a_question_which_is_none_of_them() -> None:
    task, rows = generation(), [problem(number) for number in range(4)]
    shots = Shots(task, rows)
    first, third = (show_problem(task, rows[place], shots).messages for place in (0, 2))
    assert [one["content"] for one in first] == ["1 + 1 =", "2", "2 + 1 =", "3", "0 + 1 ="]
    assert [one["content"] for one in third] == ["0 + 1 =", "1", "1 + 1 =", "2", "2 + 1 ="]
    assert [one["role"] for one in third] == ["user", "assistant", "user", "assistant", "user"]


def test_the_same_question_under_another_id_is_no_example_of_itself() -> None:
    task, rows = generation(shots=1), [problem(number) for number in range(3)]
    asked = Problem("elsewhere:9", rows[0].messages, rows[0].columns)
    assert show_problem(task, asked, Shots(task, rows)).messages[0]["content"] == "1 + 1 ="


def test_a_seed_draws_the_order_and_the_same_examples_for_every_question() -> None:
    rows = [problem(number) for number in range(40)]
    asked = [Problem(f"test:{number}", ask(f"what is {number}?"), {"answer": "x"}) for number in range(10)]

    def show(seed: int | None) -> list[str]:
        task = generation(shots=5, shots_seed=seed)
        shots = Shots(task, rows)
        [texts] = {tuple(m["content"] for m in show_problem(task, one, shots).messages[:-1]) for one in asked}
        return list(texts)

    drawn = {seed: show(seed) for seed in (None, 0, 1)}
    assert drawn[0] == show(0)
    assert len({tuple(texts) for texts in drawn.values()}) == 3
    assert drawn[None][::2] == [f"{number} + 1 =" for number in range(5)]


def test_the_order_of_examples_does_not_hang_on_what_rows_are_called() -> None:
    rows = [problem(number) for number in range(40)]
    renamed = [Problem(f"copy.gz:{one.problem_id}", one.messages, one.columns) for one in rows]
    asked, task = Problem("test:1", ask("what is it?"), {"answer": "x"}), generation(shots=5)
    shown = [show_problem(task, asked, Shots(task, given)).messages for given in (rows, renamed)]
    assert shown[0] == shown[1]


def test_examples_agree_with_the_question_in_the_named_column() -> None:
    task = generation(shots_by="subject")
    rows = [problem(number, subject=number % 2) for number in range(6)]
    shots = Shots(task, rows)
    asked = Problem("test:1", ask("?"), {"answer": "x", "subject": 1})
    assert [m["content"] for m in show_problem(task, asked, shots).messages[::2]] == ["1 + 1 =", "3 + 1 =", "?"]
    with pytest.raises(DataError, match="0 examples whose 'subject' is 7"):
        show_problem(task, Problem("test:2", ask("?"), {"subject": 7}), shots)
    with pytest.raises(DataError, match="no column 'subject'"):
        show_problem(task, Problem("test:3", ask("?"), {}), shots)


def test_too_few_examples_are_refused() -> None:
    task = generation(shots=3)
    rows = [problem(number) for number in range(3)]
    with pytest.raises(DataError, match="2 examples for 3 shots"):
        show_problem(task, rows[0], Shots(task, rows))


def test_a_reply_then_a_solution_then_the_answer_is_what_an_example_says() -> None:
    task = generation(shots=3)
    rows = [
        Problem("a", ask("1"), {"solution": "s", "answer": "x"}, reply="worked out"),
        Problem("b", ask("2"), {"solution": "s", "answer": "x"}),
        Problem("c", ask("3"), {"answer": "x"}),
    ]
    asked = show_problem(task, problem(9), Shots(task, rows))
    assert [m["content"] for m in asked.messages[1::2]] == ["worked out", "s", "x"]
    with pytest.raises(DataError, match="the answer of an example is None"):
        Shots(task, [Problem("d", ask("4"), {})])


def test_plain_text_has_blank_lines_between_blocks_and_a_space_before_an_answer() -> None:
    task = generation(form="text")
    rows = [problem(number) for number in range(3)]
    system: Message = {"role": "system", "content": "Add."}
    asked = Problem("t", [system, *ask("8 + 1 =")], {})
    shown = show_problem(task, asked, Shots(task, rows))
    assert shown.messages == ask("Add.\n\n0 + 1 = 1\n\n1 + 1 = 2\n\n8 + 1 =")
    assert join_turns([*ask("Say it:\n"), {"role": "assistant", "content": "it"}]) == "Say it:\nit"
    with pytest.raises(DataError, match="no text"):
        join_turns([{"role": "user", "content": [{"type": "text", "text": "x"}]}])


def test_examples_of_choices_show_the_options_and_the_right_letter() -> None:
    task = ChoiceTask(
        name="c", type="choice", data=ROWS, shots=1, shots_from=ROWS, shots_seed=None, options="letters", form="text"
    )
    row = Problem("a", ask("Which?"), {"choices": ["cow", "ant"], "answer": 1})
    shown = show_problem(task, Problem("b", ask("And?"), {"choices": ["x", "y"], "answer": 0}), Shots(task, [row]))
    assert join_turns(shown.messages) == "Which?\nA. cow\nB. ant\nAnswer: B\n\nAnd?"


def test_a_list_of_answers_names_several_right_choices() -> None:
    def rights(answer: Any) -> tuple[int, ...]:
        return read_question(Problem("p", [], {"choices": ["a b", "c d", "e f"], "answer": answer})).rights

    assert rights([0, 2]) == (0, 2)
    assert rights(["C", "a b", 0]) == (0, 2)
    assert rights([1]) == rights(1) == (1,)
    with pytest.raises(DataError, match="names all 3 choices"):
        rights([0, 1, 2])
    for wrong in ([], [3], [[0]], [None]):
        with pytest.raises(DataError, match="'answer'"):
            rights(wrong)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shots": 1}, "shots_from"),
        ({"shots_from": ROWS}, "without shots"),
        ({"shots_by": "x"}, "without shots"),
        ({"shots_seed": 1}, "without shots"),
        ({"shots_seed": None}, "without shots"),
    ],
)
def test_shots_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GenerationTask(name="t", data=ROWS, **changes)
