"""BFCL: which of the offered functions is called with which arguments, or that none is.

Patil et al. 2025, "The Berkeley Function Calling Leaderboard (BFCL): From Tool Use to Agentic Evaluation of Large
Language Models" (ShishirPatil/gorilla, Apache-2.0), version 4, the categories of a single turn. A row, and the row of
`possible_answer` beside it that has its id:

    {"id": "simple_7", "question": [[{"role": "user", "content": "Weather in Bern?"}]],
     "function": [{"name": "weather", "description": "...", "parameters": {"type": "dict", "properties": {...}}}]}
    {"id": "simple_7", "ground_truth": [{"weather": {"city": ["Bern"], "unit": ["celsius", ""]}}]}

Functions stand in the system message, and the reply is to be calls alone, as in the leaderboard's prompting mode. Right
is a reply whose calls are those of the key, each argument one of its values (`""`: may be left out); of `irrelevance`,
one that calls nothing.

Traps: published totals weigh categories in their own way and run live ones too; what differs from the published checker
says `scorers.tool_calls`. Values of Java and JavaScript are texts of source. `live_relevance` has no key, and the
categories of several turns need an environment; they are no parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile

KEYED = (
    "simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple",
    "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple",
)  # fmt: skip
WITHOUT_CALLS = ("irrelevance",)
_PUBLISHED = "BFCL_v4_"
_LANGUAGES = {"simple_java": "java", "simple_javascript": "javascript"}
_RULES = """You can call functions. Decide from the request which of them to call, with which arguments.
Answer with calls alone, in this form: [name(argument=value, other=value), second_name(argument=value)]
Where none of the functions fits, or an argument that is needed is not given, say so in a sentence and call nothing.
"""
_SOURCE = {
    "java": "The functions are of Java: write every value as a text that holds its Java source.\n",
    "javascript": "The functions are of JavaScript: write every value as a text that holds its JavaScript source.\n",
}


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the request below the functions that are offered, with its key."""
    category = file.stem.removeprefix(_PUBLISHED)
    messages = read_messages(row)
    system = [message["content"] for message in messages if message["role"] == "system"]
    key = read_key(row, category, () if category in WITHOUT_CALLS else _read_answers(file))
    functions = json.dumps(key["function"], ensure_ascii=False)
    rules = f"{_RULES}{_SOURCE.get(key['language'], '')}\nFunctions, as JSON:\n{functions}"
    told = {"role": "system", "content": "\n\n".join([*system, rules])}
    yield {"prompt": [told, *(message for message in messages if message["role"] != "system")], **key}


def read_messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the messages of a row's first turn."""
    turns = row["question"]
    first = turns[0] if isinstance(turns, list) and turns else None
    if not isinstance(first, list) or not first or not all(isinstance(message, Mapping) for message in first):
        raise TypeError(f"'question' is {turns!r:.80}, not a list of turns, each a list of messages")
    messages = [{"role": message["role"], "content": message["content"]} for message in first]
    if not all(isinstance(text, str) for message in messages for text in message.values()):
        raise TypeError("a message whose role or content is no text")
    return messages


def read_key(row: Mapping[str, Any], category: str, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the columns that `scorers.tool_calls` reads.

    Args:
        row: A row of a category.
        category: Its name, `simple_java` say.
        answers: The rows of its file of answers; none where nothing is to be called.

    Raises:
        KeyError, TypeError, ValueError: The row is not as published, or no answer has its id.
    """
    functions = row["function"]
    if not isinstance(functions, list) or not all(
        isinstance(entry, Mapping) and "name" in entry for entry in functions
    ):
        raise TypeError(f"'function' is {functions!r:.80}, not a list of descriptions")
    found = [answer["ground_truth"] for answer in answers if answer["id"] == row["id"]]
    if len(found) != 1 and category not in WITHOUT_CALLS:
        raise ValueError(f"{len(found)} answers have the id {row['id']!r:.80}")
    language = _LANGUAGES.get(category, "python")
    return {"function": functions, "ground_truth": found[0] if found else [], "language": language}


def _read_answers(file: PublishedFile) -> Sequence[Mapping[str, Any]]:
    """Return the rows of the file of answers that has the name of this one."""
    ending = "json" if file.stem.startswith(_PUBLISHED) else "jsonl"
    return file.read_beside(f"possible_answer/{file.stem}.{ending}")


BFCL = Benchmark(
    name="bfcl",
    version=1,
    about="function calls of a single turn; the calls are those of the key, or none",
    source="Patil et al. 2025, Berkeley Function Calling Leaderboard v4",
    licence="Apache-2.0",
    settings={"scorer": "tool_calls", "max_new_tokens": 512},
    read_row=read_row,
    files={
        name: (f"tools/bfcl_v4/{name}.jsonl{'.gz' if name == 'live_multiple' else ''}", f"{_PUBLISHED}{name}.json")
        for name in (*KEYED, *WITHOUT_CALLS)
    },
)
