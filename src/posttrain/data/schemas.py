"""Reads what a row means: TRL's dataset types, and other projects' forms through `importers.py`.

| columns | type | becomes |
| --- | --- | --- |
| `text` | language modelling | `kind="text"` |
| `messages` | language modelling | `kind="messages"`, every assistant turn trained on |
| `prompt`, `completion` | prompt-completion | `kind="messages"`, the completion trained on |
| `prompt` | prompt-only | `kind="prompt"` |
| `prompt`, `chosen`, `rejected` | preference | `kind="preference"` |
| `chosen`, `rejected` | implicit preference | the same; the prompt is what both begin with |
| `prompt`, `completion`, `label` | unpaired preference | `kind="unpaired"` |
| `prompt`, `completions`, `labels` | stepwise supervision | `kind="stepwise"`, one assistant message a step |

Text becomes messages: a prompt is what a user says, a completion is what the assistant answers. In
unpaired and stepwise examples, `messages` holds prompt and completion, and `first_trained` is where the
completion begins. Columns that are none of these travel in `columns`. Where a row could be several
types, the one lowest in the table that is complete is meant, but `messages` before `prompt` alone.
"""

from __future__ import annotations

from typing import Any

from posttrain.core.records import Example, Message
from posttrain.data.importers import IMPORTERS, Values, require, sniff_format
from posttrain.data.messages import check_conversation, is_messages, read_messages, read_tools
from posttrain.data.rows import RowError, shorten
from posttrain.data.sources import DataSource


def read_example(values: dict[str, Any], source: DataSource, row_id: str) -> Example:
    """Return a row as an example.

    Args:
        values: The row as read.
        source: Says how columns are named and which form the rows have.
        row_id: The row's name.

    Raises:
        RowError: The row means nothing that can be used; the reason is what the ledger counts under.
    """
    values = _rename(values, source.columns) if source.columns else dict(values)
    form = sniff_format(values) if source.format == "auto" else source.format
    if form != "trl":
        values = IMPORTERS[form](values)
    tools = read_tools(values.pop("tools", None))
    present = {column for column, value in values.items() if value is not None}
    if {"chosen", "rejected"} <= present:
        return _read_preference(values, tools, row_id)
    if "completions" in present:
        return _read_stepwise(values, tools, row_id)
    if {"completion", "label"} <= present:
        return _read_completion(values, tools, row_id, has_label=True)
    if "completion" in present:
        return _read_completion(values, tools, row_id, has_label=False)
    if "messages" in present:
        messages = read_messages(values.pop("messages"), "messages")
        check_conversation(messages, "messages", is_prompt=False)
        return Example(row_id, "messages", messages=messages, tools=tools, columns=values)
    if "prompt" in present and not present & {"chosen", "rejected"}:
        messages = _read_prompt(values.pop("prompt"), "prompt")
        return Example(row_id, "prompt", messages=messages, tools=tools, columns=values)
    if "text" in present and not present & {"chosen", "rejected"}:
        text = require(values, "text", str, "text")
        del values["text"]
        return Example(row_id, "text", text=text, columns=values)
    raise _describe_unknown(values, present)


def _rename(values: Values, columns: dict[str, str]) -> Values:
    missing = [theirs for theirs in columns.values() if theirs not in values]
    if missing:
        detail = f"no '{missing[0]}', which 'columns' names; the row has: {', '.join(sorted(values)) or 'nothing'}"
        raise RowError("missing column", detail, "correct 'columns': {our name: your column}")
    kept = {name: value for name, value in values.items() if name not in columns.values() and name not in columns}
    return kept | {ours: values[theirs] for ours, theirs in columns.items()}


def _describe_unknown(values: Values, present: set[str]) -> RowError:
    partner = {"chosen": "rejected", "rejected": "chosen"}
    for name, other in partner.items():
        if name in present:
            return RowError("missing column", f"'{name}' without '{other}'", f"add '{other}' or map it under 'columns'")
    nulls = sorted(set(values) - present)
    found = f"the row has: {', '.join(sorted(present)) or 'no column'}" + (
        f"; null: {', '.join(nulls)}" if nulls else ""
    )
    return RowError(
        "unknown columns",
        f"no column of a known type; {found}",
        "rename or map them, e.g. columns: {prompt: question, completion: answer}; known are text, messages, "
        "prompt with completion, chosen and rejected, or the forms alpaca, sharegpt, verl, open_instruct, sgd",
    )


def _read_prompt(value: Any, column: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    messages = read_messages(value, column)
    check_conversation(messages, column, is_prompt=True)
    return messages


def _read_answer(value: Any, prompt: list[Message], column: str) -> list[Message]:
    """Return a completion as messages; one that repeats the prompt before it is freed of it."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    messages = read_messages(value, column)
    if messages[: len(prompt)] == prompt:
        messages = messages[len(prompt) :]
    if messages and messages[0]["role"] != "assistant" and any(message["role"] == "assistant" for message in messages):
        raise RowError(
            "prompt is no prefix",
            f"'{column}' is a conversation that does not begin with the prompt",
            "give the answer alone, or a conversation that begins with exactly the prompt's messages",
        )
    if not messages or messages[0]["role"] != "assistant":
        found = f"it begins with a message of the {messages[0]['role']}" if messages else "nothing follows the prompt"
        raise RowError("wrong completion", f"'{column}' must begin with the assistant's answer; {found}")
    check_conversation(prompt + messages, column, is_prompt=False)
    return messages


def _read_completion(values: Values, tools: list[dict[str, Any]] | None, row_id: str, *, has_label: bool) -> Example:
    require(values, "prompt", object, "")
    prompt = _read_prompt(values.pop("prompt"), "prompt")
    answer = _read_answer(values.pop("completion"), prompt, "completion")
    label = None
    if has_label:
        label = values.pop("label")
        if not isinstance(label, bool):
            cure = "write true or false; if the column means something else, map it: columns: {other_name: label}"
            raise RowError("wrong type", f"'label' is {type(label).__name__} {shorten(label)}, not true or false", cure)
    return Example(
        row_id, "unpaired" if has_label else "messages", messages=prompt + answer, label=label, tools=tools,
        first_trained=len(prompt), columns=values,
    )  # fmt: skip


def _read_stepwise(values: Values, tools: list[dict[str, Any]] | None, row_id: str) -> Example:
    require(values, "prompt", object, "")
    steps = require(values, "completions", list, "a list of steps")
    labels = require(values, "labels", list, "a list of true or false")
    if not steps or not all(isinstance(step, str) for step in steps):
        raise RowError("wrong type", f"'completions' is {shorten(steps)}, not a list of texts")
    if not all(isinstance(label, bool) for label in labels):
        raise RowError("wrong type", f"'labels' is {shorten(labels)}, not a list of true or false")
    if len(labels) != len(steps):
        raise RowError("labels do not match", f"{len(steps)} completions and {len(labels)} labels")
    prompt = _read_prompt(values["prompt"], "prompt")
    messages = prompt + [{"role": "assistant", "content": step} for step in steps]
    rest = {name: value for name, value in values.items() if name not in ("prompt", "completions", "labels")}
    return Example(
        row_id, "stepwise", messages=messages, labels=labels, tools=tools, first_trained=len(prompt), columns=rest
    )


def _read_preference(values: Values, tools: list[dict[str, Any]] | None, row_id: str) -> Example:
    chosen, rejected = values.pop("chosen"), values.pop("rejected")
    given = values.pop("prompt", None)
    if given is None:
        given, chosen, rejected = _split_implicit(chosen, rejected)
    prompt = _read_prompt(given, "prompt")
    chosen, rejected = _read_answer(chosen, prompt, "chosen"), _read_answer(rejected, prompt, "rejected")
    if chosen == rejected:
        raise RowError("no preference", "'chosen' and 'rejected' are the same", "leave the row out")
    return Example(row_id, "preference", messages=prompt, chosen=chosen, rejected=rejected, tools=tools, columns=values)


def _split_implicit(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Return (prompt, chosen, rejected) of a pair without a prompt: the prompt is what both begin with.

    Conversations are split between messages; text is split before the last blank of the common beginning,
    so that no word is divided.
    """
    if type(chosen) is not type(rejected) or not isinstance(chosen, str | list):
        found = f"{type(chosen).__name__} and {type(rejected).__name__}"
        raise RowError("wrong type", f"'chosen' and 'rejected' are {found}, not two texts or two lists of messages")
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    if isinstance(chosen, str):
        common = max((index for index in range(common) if chosen[index].isspace()), default=0)
    elif is_messages(chosen):
        while common and chosen[common - 1]["role"] == "assistant":  # an answer that both give is no prompt's end
            common -= 1
    if common == 0:
        raise RowError("no shared prompt", "'chosen' and 'rejected' begin differently", "add a column 'prompt'")
    return chosen[:common], chosen[common:], rejected[common:]
