"""BIG-Bench Hard: 27 tasks on which models were below people, each asked after three solved examples with reasoning.

Suzgun et al. 2022, "Challenging BIG-Bench Tasks and Whether Chain-of-Thought Can Solve Them", arXiv 2210.09261
(suzgunmirac/BIG-Bench-Hard, MIT). A file is one object; the examples before a question lie in `cot-prompts/<task>.txt`
beside it, below a line that is not to be trained on:

    {"canary": "...", "examples": [{"input": "not ( True ) and ( False ) is", "target": "False"}, ...]}

Right is a reply whose declared answer ("So the answer is X.") is the target: the letter of an option, a whole number,
or the words, signs and order of anything else, without regard to case. The mean over all items is the metric; published
numbers are mostly the mean over tasks.

Traps: a policy that goes on with the next question is stopped at `Q:`. In three items the target is no option's letter
but its text, as published. The canary text stands in every file: do not train on what has it. `dyck_languages` needs
every bracket in its place. All items of a task share its three examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.reading import mark_leaks, take_text

TASKS = (
    "boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa", "dyck_languages",
    "formal_fallacies", "geometric_shapes", "hyperbaton", "logical_deduction_five_objects",
    "logical_deduction_seven_objects", "logical_deduction_three_objects", "movie_recommendation",
    "multistep_arithmetic_two", "navigate", "object_counting", "penguins_in_a_table",
    "reasoning_about_colored_objects", "ruin_names", "salient_translation_error_detection", "snarks",
    "sports_understanding", "temporal_sequences", "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects", "tracking_shuffled_objects_three_objects", "web_of_lies", "word_sorting",
)  # fmt: skip
_RULE = "\n-----\n"
_LETTER = re.compile(r"\([A-Z]\)")
_INTEGER = re.compile(r"-?\d+")


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Yield every example of a task's file, after the three solved ones of its prompt."""
    solved = _read_solved(file)
    examples = row["examples"]
    if not isinstance(examples, list) or not all(isinstance(example, Mapping) for example in examples):
        raise TypeError(f"'examples' is {examples!r:.80}, not a list of objects")
    for example in examples:
        target = take_text(example, "target").strip()
        form = "choice" if _LETTER.fullmatch(target) else "integer" if _INTEGER.fullmatch(target) else "text"
        asked = take_text(example, "input").strip()
        yield {
            "prompt": f"{solved}\n\nQ: {asked}\nA: Let's think step by step.",
            "answer": target,
            "answer_form": form,
            "subject": file.stem,
            **mark_leaks(asked),
        }


def _read_solved(file: PublishedFile) -> str:
    """Return the three solved examples of a task, without the canary above them."""
    (beside,) = file.read_beside(f"cot-prompts/{file.stem}.txt")
    head, rule, solved = take_text(beside, "text").replace("\r\n", "\n").partition(_RULE)
    if not rule or "canary" not in head or not solved.strip():
        raise ValueError(f"cot-prompts/{file.stem}.txt has no examples below a canary and a line of dashes")
    return solved.strip()


BBH = Benchmark(
    name="bbh",
    version=1,
    about="27 hard tasks of BIG-bench with three solved examples; the declared answer is the target",
    source="Suzgun et al. 2022, arXiv 2210.09261",
    licence="MIT",
    settings={
        "scorer": {"type": "math", "extraction": ["phrase", "boxed"]},
        "max_new_tokens": 1024,
        "stop": ["\nQ:"],
    },
    read_row=read_row,
    files={task: (f"bbh/{task}.json", f"{task}.json") for task in TASKS},
)
