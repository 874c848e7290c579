"""The program in a completion's text.

1. Reasoning is left out (`reasoning.ANSWER_ONLY`); reasoning that never ends leaves nothing.
2. Of the fenced blocks that remain (``` or ~~~, at any indentation), the last one marked as Python counts
   (`python`, `py`, `python3`), or, where none is, the last unmarked one. An unclosed last block runs to the end.
3. Without a block the whole text is the program, if it is Python at all.

Where the prompt is the beginning of a program (HumanEval), a program whose first line is indented continues the
prompt; any other stands for itself, after the prompt's imports and functions other than the one asked for.

The text is parsed, never compiled or run; one longer than `MAX_CHARACTERS` is no program.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from posttrain.scorers.reasoning import ANSWER_ONLY, strip_reasoning

MAX_CHARACTERS = 262_144
_PYTHON = ("python", "py", "python3")
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^\n]*)$")


@dataclass(frozen=True, slots=True)
class PromptCode:
    """The beginning of a program that completions continue.

    Made by `read_prompt_code`. `text` ends inside the function asked for; `preamble` is what stands before it
    (imports, functions that it may use); `stub` is the whole with a body that does nothing.
    """

    text: str
    preamble: str
    stub: str


def read_prompt_code(text: str, entry: str) -> PromptCode | None:
    """Return the code of a prompt that ends in the function `entry`, or None where it is none."""
    for candidate in (text, _take_block(text)):
        if candidate is None:
            continue
        for body in ("", "    pass\n"):
            stub = f"{candidate}\n{body}"
            tree = parse_python(stub)
            last = tree.body[-1] if tree is not None and tree.body else None
            if isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef) and last.name == entry:
                first = min([last.lineno, *(decorator.lineno for decorator in last.decorator_list)])
                return PromptCode(candidate, "".join(candidate.splitlines(keepends=True)[: first - 1]), stub)
    return None


def extract_program(text: str, prompt: PromptCode | None = None) -> str | None:
    """Return the program of a completion's text, or None where it holds none.

    Args:
        text: What the policy wrote.
        prompt: The beginning that it may continue.
    """
    visible = strip_reasoning(text, ANSWER_ONLY)
    if visible is None:
        return None
    block = _take_block(visible)
    source = visible if block is None else block
    if not source.strip() or len(source) > MAX_CHARACTERS:
        return None
    if prompt is not None and _is_indented(source):
        joined = prompt.text + ("" if prompt.text.endswith("\n") else "\n") + source
        if parse_python(joined) is not None:
            return joined
    if block is None and parse_python(source) is None:
        return None
    return source if prompt is None else _put_first(prompt.preamble, source)


def parse_python(source: str) -> ast.Module | None:
    """Return the syntax tree of a text, or None where it is no Python, or too deeply nested to be parsed."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # NUL and lone surrogates are ValueErrors
        return None


def _is_indented(source: str) -> bool:
    first = next((line for line in source.splitlines() if line.strip()), "")
    return first[:1] in (" ", "\t")


def _put_first(preamble: str, source: str) -> str:
    """Return source after a preamble, but `from __future__` before both, where Python wants it."""
    tree = parse_python(source)
    futures = [
        statement.end_lineno or 0
        for statement in (tree.body if tree is not None else [])
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
    ]
    lines = source.splitlines(keepends=True)
    last = max(futures, default=0)
    head = "".join(lines[:last])
    return head + ("" if head.endswith("\n") or not head else "\n") + preamble + "\n" + "".join(lines[last:])


def _take_block(text: str) -> str | None:
    """Return the last block marked as Python, else the last unmarked one, else None."""
    marked: str | None = None
    unmarked: str | None = None
    fence, indent, language = "", "", ""
    lines: list[str] = []
    for line in [*text.replace("\r\n", "\n").split("\n"), None]:
        match = None if line is None else _FENCE.match(line)
        if not fence:
            if match is not None and not (match[2][0] == "`" and "`" in match[3]):
                indent, fence, language = match[1], match[2], (match[3].split() or [""])[0].lower()
                lines = []
            continue
        is_end = match is not None and not match[3].strip() and match[2].startswith(fence)
        if line is not None and not is_end:
            lines.append(line.removeprefix(indent))
            continue
        if language in _PYTHON:
            marked = "\n".join(lines) + "\n"
        elif not language:
            unmarked = "\n".join(lines) + "\n"
        fence = ""
    return unmarked if marked is None else marked
