"""Brings rows of other projects' forms into TRL's columns; `schemas.py` reads them from there.

Each importer takes a row's values and returns values with TRL column names; columns that it does not
know travel on to the scorers.

* Alpaca: `instruction`, `input`, `output` (or `response`), `system`, `history` -> `prompt`, `completion`.
  The input follows the instruction after an empty line.
* ShareGPT: `conversations` of `{from, value}`, `system`, `tools`; `function_call` and `observation` turns
  -> tool calls and replies; `chosen` and `rejected` turns beside it -> a preference.
* verl: `data_source`, `prompt`, `reward_model: {ground_truth}` -> `prompt` and the column `ground_truth`.
* open-instruct: `messages`, `ground_truth`, `dataset` -> `prompt`; an answer at the end becomes the
  completion.
* sgd (Schema-Guided Dialogue): `turns` of `{speaker, utterance, frames}`; a frame's `service_call` and
  `service_results` -> a tool call and its reply before the utterance. The schemas of the services lie in
  a file of their own, so `tools` stays empty.

Published preference and judge sets are in `preference_forms.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from posttrain.core.config import suggest
from posttrain.data.messages import is_messages, read_calls
from posttrain.data.preference_forms import PUBLISHED_IMPORTERS, sniff_published_form
from posttrain.data.rows import RowError, Values, require, shorten

_SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
    "function_call": "call", "tool_call": "call", "observation": "tool", "tool": "tool",
    "function_response": "tool", "tool_response": "tool",
}  # fmt: skip
_SPEAKERS = {"USER": "user", "SYSTEM": "assistant"}


def sniff_format(values: Values) -> str:
    """Return the importer that a row's columns call for, `trl` if none."""
    columns = set(values)
    if "conversations" in columns:
        return "sharegpt"
    if {"data_source", "reward_model", "prompt"} <= columns:
        return "verl"
    if {"messages", "ground_truth", "dataset"} <= columns:
        return "open_instruct"
    if "instruction" in columns and columns & {"output", "response"}:
        return "alpaca"
    turns = values.get("turns")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict) and {"speaker", "utterance"} <= set(turns[0]):
        return "sgd"
    return sniff_published_form(values) or "trl"


def _text(values: Values, column: str) -> str:
    return "" if values.get(column) is None else str(require(values, column, str, "text"))


def import_alpaca(values: Values) -> Values:
    """Return an Alpaca row as prompt and completion; earlier turns of `history` are not trained on."""
    answer = "output" if values.get("output") is not None else "response"
    completion = require(values, answer, str, "text")
    instruction = require(values, "instruction", str, "text")
    question = "\n\n".join(part for part in (instruction, _text(values, "input")) if part)
    prompt = [{"role": "system", "content": _text(values, "system")}] if values.get("system") else []
    for pair in values.get("history") or []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError("wrong type", f"'history' holds {shorten(pair)}, not pairs of instruction and output")
        prompt += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    prompt.append({"role": "user", "content": question})
    known = {"instruction", "input", answer, "system", "history"}
    rest = {column: value for column, value in values.items() if column not in known}
    return {**rest, "prompt": prompt, "completion": [{"role": "assistant", "content": completion}]}


def import_sharegpt(values: Values) -> Values:
    """Return a ShareGPT row as messages, or as a preference or labelled completion where it is one."""
    turns = require(values, "conversations", list, "a list of turns")
    messages = _read_turns(turns, "conversations")
    system = _text(values, "system")
    if system and not (messages and messages[0]["role"] == "system"):
        messages.insert(0, {"role": "system", "content": system})
    known = {"conversations", "system", "chosen", "rejected"}
    rest = {column: value for column, value in values.items() if column not in known}
    if values.get("chosen") is not None and values.get("rejected") is not None:
        answers = {name: _read_answer(values[name], name) for name in ("chosen", "rejected")}
        return {**rest, "prompt": messages, **answers}
    if isinstance(values.get("label"), bool) and messages and messages[-1]["role"] == "assistant":
        return {**rest, "prompt": messages[:-1], "completion": messages[-1:]}
    return {**rest, "messages": messages}


def _read_answer(value: Any, column: str) -> list[Values]:
    return _read_turns(value if isinstance(value, list) else [value], column)


def _read_turns(turns: list[Any], column: str) -> list[Values]:
    messages: list[Values] = []
    calls: list[Values] = []
    for index, turn in enumerate(turns):
        place = f"{column}[{index}]"
        if isinstance(turn, dict) and "role" in turn and "from" not in turn:
            messages.append(turn)
            continue
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
            raise RowError("wrong type", f"{place} is {shorten(turn)}, not a turn with 'from' and 'value'")
        role, value = _SHAREGPT_ROLES.get(turn["from"]), turn.get("value")
        if role is None:
            raise RowError(
                "unknown role", f"{place}.from is {shorten(turn['from'])!r}", suggest(turn["from"], _SHAREGPT_ROLES)
            )
        if role == "call":
            if not isinstance(value, str):
                raise RowError("wrong type", f"{place}.value is {type(value).__name__}, not text")
            calls = read_calls(value, place)
            if messages and messages[-1]["role"] == "assistant":  # what was said before the call, or another call
                messages[-1]["tool_calls"] = calls = messages[-1].get("tool_calls", []) + calls
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        elif role == "tool":
            answered = sum(1 for _ in _trailing_replies(messages))
            named = {"name": calls[answered]["function"]["name"]} if answered < len(calls) else {}
            messages.append({"role": "tool", "content": value, **named})
        else:
            messages.append({"role": role, "content": value})
    return messages


def _trailing_replies(messages: list[Values]) -> list[Values]:
    last = next((index for index in range(len(messages), 0, -1) if messages[index - 1]["role"] != "tool"), 0)
    return messages[last:]


def import_verl(values: Values) -> Values:
    """Return a verl row as a prompt; the ground truth becomes a column of its own."""
    rule = require(values, "reward_model", dict, "an object with ground_truth")
    if "ground_truth" not in rule:
        raise RowError("missing column", f"'reward_model' has no ground_truth, only: {', '.join(sorted(rule))}")
    require(values, "prompt", list, "a list of messages")
    return {**values, "ground_truth": rule["ground_truth"]}


def import_open_instruct(values: Values) -> Values:
    """Return an open-instruct row as a prompt, or as prompt and completion where an answer ends it."""
    messages = require(values, "messages", list, "a list of messages")
    rest = {column: value for column, value in values.items() if column != "messages"}
    if is_messages(messages) and len(messages) > 1 and messages[-1]["role"] == "assistant":
        return {**rest, "prompt": messages[:-1], "completion": messages[-1:]}
    return {**rest, "prompt": messages}


def import_sgd(values: Values) -> Values:
    """Return a Schema-Guided Dialogue as messages with tool calls and replies."""
    messages: list[Values] = []
    for index, turn in enumerate(require(values, "turns", list, "a list of turns")):
        place = f"turns[{index}]"
        role = _SPEAKERS.get(str(turn.get("speaker"))) if isinstance(turn, dict) else None
        if role is None:
            raise RowError("unknown role", f"{place} has no speaker USER or SYSTEM: {shorten(turn)}")
        for frame in turn.get("frames") or []:
            call = frame.get("service_call") if isinstance(frame, dict) else None
            if call is None:
                continue
            if role != "assistant" or not isinstance(call, dict) or not isinstance(call.get("method"), str):
                raise RowError("wrong type", f"{place} holds {shorten(call)}, not a call of the system's with a method")
            function = {"name": call["method"], "arguments": call.get("parameters") or {}}
            results = json.dumps(frame.get("service_results") or [], ensure_ascii=False)
            messages += [
                {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]},
                {"role": "tool", "name": call["method"], "content": results},
            ]
        messages.append({"role": role, "content": turn.get("utterance")})
    rest = {column: value for column, value in values.items() if column != "turns"}
    return {**rest, "messages": messages}


IMPORTERS: dict[str, Callable[[Values], Values]] = {
    "alpaca": import_alpaca,
    "sharegpt": import_sharegpt,
    "verl": import_verl,
    "open_instruct": import_open_instruct,
    "sgd": import_sgd,
    **PUBLISHED_IMPORTERS,
}
