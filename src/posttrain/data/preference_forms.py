"""Brings published preference sets and judges' test sets into TRL's columns; `schemas.py` reads them from there.

Columns that a form does not know travel on. A row that a form leaves out by its own rule (a tie, a label that points
nowhere) is counted in the ledger under that reason, and is not held against `max_bad_fraction`.

* hh (hh-rlhf): `chosen` and `rejected` are whole transcripts of `Human:` and `Assistant:` -> `prompt`, and the last
  answer of each. Turns of one speaker that follow one another are one turn. Left out: transcripts that differ before
  their last answers.
* pandalm (PandaLM's test set): `instruction`, `input`, `response1`, `response2`, and `annotator1` to `annotator3`, each
  1, 2 or 0 for a tie -> the pair as most annotators see it. Left out: ties, rows without a majority, and responses that
  are no text (the published file has six `true`).
* finegrained_qa (FineGrainedRLHF's QA feedback): `question`, `passages`, `prediction 1` to `prediction 4`, `preference`
  of the six pairs in the order 1-2, 1-3, 1-4, 2-3, 2-4, 3-4, each 1, 2 or 0 for none -> six rows `file:7#1` to
  `file:7#6`. The prompt is the passages and then the question. Left out: ties.
* llmbar (LLMBar, and FairEval, LLMEval2 and MT-Bench as LLMBar processed them): `input`, `output_1`, `output_2`,
  `label` 1 or 2 -> a pair. Left out: equal outputs.
* hhh (HHH alignment as prometheus-eval has it): `chosen_instruction` and `rejected_instruction`, each an instruction
  and a response inside a judge's prompt -> a pair; instructions of several turns become messages.
* prmbench (PRMBench): `modified_question`, `modified_process`, `error_steps` counted from 1 -> a stepwise row. Left
  out: rows of which an error step is no step of the process (100 of the published 6,216).
* autoj (Auto-J's pairwise test set as prometheus-eval has it): `prompt`, `response 1`, `response 2`, `label` 0 where
  the first is better, 1 where the second is, 2 for a tie -> a pair. Left out: ties, equal responses.
* prm800k (PRM800K as published): `question` and `label` with `steps`, each of some rated `completions`, one of them
  chosen, or written by a labeller -> stepwise rows `file:7#1`, `file:7#2`, ...: the solution of the chosen steps, and
  for each other rated completion the steps before it and itself. A step is wrong where its rating is -1. Blank lines
  within a step become line ends, so that a separator of two line ends parts steps. Left out: rows without a rated step.
* labelled_messages (LLaMA-Factory's KTO form): `messages` and a bool `label` -> `prompt`, `completion`, `label`.

Sources: Bai et al. 2022 (arXiv 2204.05862); Wang et al. 2023, PandaLM (arXiv 2306.05087); Wu et al. 2023 (arXiv
2306.01693) and the readme of its data; Zeng et al. 2023, LLMBar (arXiv 2310.07641); Askell et al. 2021 (arXiv
2112.00861); Song et al. 2025, PRMBench (arXiv 2501.03124); Li et al. 2023, Auto-J (arXiv 2310.05470); Lightman et al.
2023, PRM800K (arXiv 2305.20050).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

from posttrain.data.messages import is_messages
from posttrain.data.rows import BadRow, LeftOutError, RawRow, RowError, Values, require, shorten

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_JUDGED = re.compile(
    r"###The instruction to evaluate:\n(.*?)\n\n###Response to evaluate:\n(.*?)\n\n###Score Rubrics:\n", re.DOTALL
)
_PREDICTIONS = [f"prediction {number}" for number in (1, 2, 3, 4)]
_ANNOTATORS = ("annotator1", "annotator2", "annotator3")
_COLUMNS = {
    "pandalm": {"instruction", "response1", "response2", *_ANNOTATORS},
    "finegrained_qa": {"question", "passages", "preference", *_PREDICTIONS},
    "prm800k": {"question", "label", "labeler", "timestamp"},
    "autoj": {"prompt", "response 1", "response 2", "label"},
    "llmbar": {"input", "output_1", "output_2", "label"},
    "hhh": {"chosen_instruction", "rejected_instruction"},
    "prmbench": {"modified_question", "modified_process", "error_steps"},
}
TIE, NO_MAJORITY, NO_TEXT = "tie", "no majority", "no text"
SAME_ANSWERS, EARLIER_TURNS, NO_SUCH_STEP = "same answers", "earlier turns differ", "no such step"
NO_RATED_STEP = "no rated step"


def sniff_published_form(values: Values) -> str | None:
    """Return the form of this module that a row's columns call for, None if it is none of these."""
    columns = set(values)
    if {"chosen", "rejected"} <= columns and "prompt" not in columns:
        answers = (values["chosen"], values["rejected"])
        is_hh = all(isinstance(answer, str) and answer.startswith("\n\nHuman:") for answer in answers)
        return "hh" if is_hh else None
    if {"messages", "label"} <= columns:
        return "labelled_messages" if isinstance(values["label"], bool) else None
    return next((form for form, needed in _COLUMNS.items() if needed <= columns), None)


def import_hh(values: Values) -> Values:
    """Return two transcripts as the prompt that both begin with, and the last answer of each."""
    chosen, rejected = (
        _read_transcript(require(values, name, str, "a transcript"), name) for name in ("chosen", "rejected")
    )
    if chosen[:-1] != rejected[:-1]:
        turns = f"{len(chosen)} and {len(rejected)} turns"
        raise LeftOutError(EARLIER_TURNS, f"the transcripts, of {turns}, differ before their last answers")
    return {**values, "prompt": chosen[:-1], **_pair([chosen[-1]], [rejected[-1]])}


def _read_transcript(text: str, column: str) -> list[Values]:
    """Return the turns of a transcript; those of one speaker that follow one another are one."""
    before, *parts = _TURN.split(text)
    if before.strip() or not parts:
        raise RowError("wrong transcript", f"'{column}' begins with {shorten(text)!r}, not with 'Human:'")
    messages: list[Values] = []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role, said = _ROLES[speaker], said.strip()
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{said}".strip()
        else:
            messages.append({"role": role, "content": said})
    if messages[0]["role"] != "user" or messages[-1]["role"] != "assistant":
        raise RowError("wrong transcript", f"'{column}' does not begin with 'Human:' and end with 'Assistant:'")
    return messages


def _pair(chosen: Any, rejected: Any) -> Values:
    if chosen == rejected:
        raise LeftOutError(SAME_ANSWERS, f"both are {shorten(chosen)}")
    return {"chosen": chosen, "rejected": rejected}


def import_pandalm(values: Values) -> Values:
    """Return a comparison as the pair that most annotators see; `annotator1` to `annotator3` travel on."""
    votes = Counter(_read_choice(values, name) for name in _ANNOTATORS)
    choice, count = votes.most_common(1)[0]
    if count < 2:
        raise LeftOutError(NO_MAJORITY, "each annotator says something else")
    if choice == 0:
        raise LeftOutError(TIE, f"{count} of 3 annotators see a tie")
    for name in ("response1", "response2"):
        if not isinstance(values.get(name), str):
            raise LeftOutError(NO_TEXT, f"'{name}' is {shorten(values.get(name))}")
    asked = [require(values, "instruction", str, "text"), values.get("input") or ""]
    if not isinstance(asked[1], str):
        raise RowError("wrong type", f"'input' is {type(asked[1]).__name__}, not text")
    rest = _leave(values, "instruction", "input", "response1", "response2")
    answers = _pair(values[f"response{choice}"], values[f"response{3 - choice}"])
    return {**rest, "prompt": "\n\n".join(filter(None, asked)), **answers}


def _read_choice(values: Values, column: str) -> int:
    choice = values.get(column)
    if isinstance(choice, bool) or choice not in (0, 1, 2):
        raise RowError("wrong label", f"'{column}' is {shorten(choice)}, not 1, 2, or 0 for a tie")
    return int(choice)


def _leave(values: Values, *names: str) -> Values:
    """Return the columns that have no part in what a row becomes."""
    return {name: value for name, value in values.items() if name not in names}


def import_finegrained_qa(values: Values) -> list[Values | LeftOutError]:
    """Return the six pairs of four predictions, or why one is none; `pair` says which, `cluster_id` is the question."""
    choices = require(values, "preference", list, "a list of 6 numbers")
    pairs = list(combinations(range(4), 2))
    if len(choices) != len(pairs) or any(isinstance(one, bool) or one not in (0, 1, 2) for one in choices):
        raise RowError("wrong label", f"'preference' is {shorten(choices)}, not 6 numbers of 0, 1 and 2")
    predictions = [require(values, name, str, "text") for name in _PREDICTIONS]
    question = require(values, "question", str, "text")
    passages = require(values, "passages", list, "a list of passages")
    prompt = "\n\n".join([*(_read_passage(passage) for passage in passages), question])
    rest = _leave(values, "question", "passages", "preference", *_PREDICTIONS)
    found: list[Values | LeftOutError] = []
    for (first, second), choice in zip(pairs, choices, strict=True):
        if choice == 0:
            found.append(LeftOutError(TIE, f"no preference between predictions {first + 1} and {second + 1}"))
            continue
        better, worse = (first, second) if choice == 1 else (second, first)
        try:
            answers = _pair(predictions[better], predictions[worse])
        except LeftOutError as error:
            found.append(error)
            continue
        pair = f"{better + 1} over {worse + 1}"
        found.append({**rest, "cluster_id": question, "pair": pair, "prompt": prompt, **answers})
    return found


def _read_passage(passage: Any) -> str:
    """Return a passage, published as its title and its sentences; a first sentence may repeat the title above it."""
    if not isinstance(passage, list) or not passage or not all(isinstance(part, str) for part in passage):
        raise RowError("wrong type", f"a passage is {shorten(passage)}, not a list of a title and sentences")
    title, *sentences = passage
    said = " ".join(sentences).removeprefix(title + "\n").lstrip()
    return f"{title}\n{said}"


def import_llmbar(values: Values) -> Values:
    """Return a judge's test item as the pair that its label says."""
    label = values.get("label")
    if isinstance(label, bool) or label not in (1, 2):
        raise RowError("wrong label", f"'label' is {shorten(label)}, not 1 or 2")
    outputs = {number: require(values, f"output_{number}", str, "text") for number in (1, 2)}
    prompt = require(values, "input", str, "text")
    rest = _leave(values, "input", "output_1", "output_2", "label")
    return {**rest, "prompt": prompt, **_pair(outputs[label], outputs[3 - label])}


def import_hhh(values: Values) -> Values:
    """Return two judge's prompts as the instruction that both are about, and the two responses."""
    names = ("chosen_instruction", "rejected_instruction")
    found = [_JUDGED.search(require(values, name, str, "text")) for name in names]
    if found[0] is None or found[1] is None:
        name = names[0] if found[0] is None else names[1]
        raise RowError("wrong form", f"'{name}' has no '###The instruction to evaluate:' with a response behind it")
    if found[0][1] != found[1][1]:
        raise RowError("no shared prompt", "the two responses are to other instructions")
    prompt = _read_transcript(f"\n\nHuman:{found[0][1]}\n\nAssistant:", "chosen_instruction")[:-1]
    return {**_leave(values, *names), "prompt": prompt, **_pair(found[0][2], found[1][2])}


def import_prmbench(values: Values) -> Values:
    """Return a solution with planted errors as steps with labels; `classification` says of which kind they are."""
    steps = require(values, "modified_process", list, "a list of steps")
    errors = require(values, "error_steps", list, "a list of numbers of steps")
    if not all(isinstance(error, int) and not isinstance(error, bool) for error in errors):
        raise RowError("wrong type", f"'error_steps' is {shorten(errors)}, not a list of whole numbers")
    beyond = [error for error in errors if not 1 <= error <= len(steps)]
    if beyond:
        raise LeftOutError(NO_SUCH_STEP, f"error step {beyond[0]} of {len(steps)} steps")
    labels = [number not in errors for number in range(1, len(steps) + 1)]
    rest = _leave(values, "modified_question", "modified_process", "error_steps")
    prompt = require(values, "modified_question", str, "text")
    return {**rest, "prompt": prompt, "completions": steps, "labels": labels}


def import_autoj(values: Values) -> Values:
    """Return a judge's test item as the pair that its label says; `scenario` travels on."""
    label = values.get("label")
    if isinstance(label, bool) or label not in (0, 1, 2):
        raise RowError("wrong label", f"'label' is {shorten(label)}, not 0, 1, or 2 for a tie")
    if label == 2:
        raise LeftOutError(TIE, "'label' is 2")
    names = ("response 1", "response 2")
    responses = [require(values, name, str, "text") for name in names]
    return {**_leave(values, "label", *names), **_pair(responses[label], responses[1 - label])}


def import_prm800k(values: Values) -> list[Values | LeftOutError]:
    """Return the stepwise rows of a labelled solution; `problem` is their prompt, and `cluster_id`."""
    question = require(values, "question", dict, "a mapping")
    steps = require(require(values, "label", dict, "a mapping"), "steps", list, "a list of steps")
    problem = require(question, "problem", str, "text")
    rest = _leave(values, "question", "label") | {"ground_truth": question.get("ground_truth_answer")}
    texts: list[str] = []
    labels: list[bool] = []
    solutions: list[tuple[list[str], list[bool]]] = []
    for step in steps:
        rated, chosen, written = _read_step(step)
        for number, (text, is_right) in enumerate(rated):
            if number != chosen and is_right is not None:
                solutions.append(([*texts, text], [*labels, is_right]))
        taken = (written, True) if chosen is None else rated[chosen]
        if taken[0] is None or taken[1] is None:
            break
        texts.append(taken[0])
        labels.append(taken[1])
    if texts:
        solutions.insert(0, (texts, labels))
    if not solutions:
        return [LeftOutError(NO_RATED_STEP, f"none of {len(steps)} steps has a rated completion")]
    row = {**rest, "cluster_id": problem, "prompt": problem}
    return [{**row, "completions": texts, "labels": labels} for texts, labels in solutions]


def _read_step(step: Any) -> tuple[list[tuple[str, bool | None]], int | None, str | None]:
    """Return a step's completions with whether each is right (None: not rated), the chosen one, or the written one."""
    step = require({"step": step}, "step", dict, "a mapping")
    completions = [] if step.get("completions") is None else require(step, "completions", list, "a list")
    rated = [_read_rated(completion) for completion in completions]
    chosen, written = step.get("chosen_completion"), step.get("human_completion")
    if chosen is None:
        return rated, None, None if written is None else _read_rated(written)[0]
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < len(rated):
        raise RowError("wrong label", f"'chosen_completion' is {shorten(chosen)} of {len(rated)} completions")
    return rated, chosen, None


def _read_rated(completion: Any) -> tuple[str, bool | None]:
    completion = require({"completion": completion}, "completion", dict, "a mapping")
    rating = completion.get("rating")
    if isinstance(rating, bool) or rating not in (-1, 0, 1, None):
        raise RowError("wrong label", f"'rating' is {shorten(rating)}, not -1, 0 or 1")
    text = re.sub(r"\n\s*\n", "\n", require(completion, "text", str, "text").strip())
    return text, None if rating is None else rating >= 0


def import_labelled_messages(values: Values) -> Values:
    """Return a conversation with a label as prompt and completion: its last answer is what the label is about."""
    messages = require(values, "messages", list, "a list of messages")
    if not is_messages(messages) or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise RowError("ends without an answer", "'messages' with a label must end with the assistant's answer")
    return {**_leave(values, "messages"), "prompt": messages[:-1], "completion": messages[-1:]}


PUBLISHED_IMPORTERS: dict[str, Callable[[Values], Values]] = {
    "hh": import_hh,
    "pandalm": import_pandalm,
    "llmbar": import_llmbar,
    "hhh": import_hhh,
    "prmbench": import_prmbench,
    "autoj": import_autoj,
    "labelled_messages": import_labelled_messages,
}


_SPLITTERS: dict[str, Callable[[Values], list[Values | LeftOutError]]] = {
    "finegrained_qa": import_finegrained_qa,
    "prm800k": import_prm800k,
}


def split_rows(row: RawRow, form: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows that a published row becomes before it is read: itself, but several of some forms.

    Args:
        row: As read.
        form: A source's `format`.
    """
    if form == "auto":
        form = next((name for name in _SPLITTERS if _COLUMNS[name] <= row.values.keys()), form)
    if form not in _SPLITTERS:
        yield row
        return
    try:
        found = _SPLITTERS[form](row.values)
    except RowError as error:
        yield error.describe(row)
        return
    for number, values in enumerate(found, start=1):
        part = RawRow(f"{row.row_id}#{number}", row.place, {} if isinstance(values, RowError) else values)
        yield values.describe(part) if isinstance(values, RowError) else part
