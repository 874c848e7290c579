"""Tools: a name, a JSON schema as OpenAI writes it, and a function from arguments to text.

What a tool cannot do is said in words and goes on as an observation: it raises `ToolError`, or anything else at all.
A harness that fails, a sandbox say, raises `ToolBrokenError`, which is no fault of the policy.
"""

from __future__ import annotations

import inspect
import threading
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.core.errors import RecipeError
from posttrain.sandbox.programs import Program
from posttrain.sandbox.running import ProgramPool

MAX_HUNG_CALLS = 8
"""Calls of one tool that may hang; beyond them it fails at once, since nothing in this process can end them."""
_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


class ToolError(Exception):
    """What a tool says in place of a result; its text becomes the observation."""


class ToolBrokenError(Exception):
    """The harness failed: the rollout is left out and counted, and never becomes a score."""


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that a policy may call.

    Made by wiring, read by environments. `run` may be called from several threads at once; it bounds its own time.

    Example: `Tool("calculator", "...", {"type": "object", "properties": {"expression": {"type": "string"}},
    "required": ["expression"]}, run)` is called with `{"expression": "6 * 7"}` and gives `"42"`.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], str]

    @property
    def schema(self) -> dict[str, Any]:
        """How it is offered, as OpenAI writes it."""
        described = {"description": self.description} if self.description else {}
        return {"type": "function", "function": {"name": self.name, **described, "parameters": dict(self.parameters)}}


def take_text(**meanings: str) -> dict[str, Any]:
    """Return the schema of arguments that are texts, each with what it means."""
    properties = {name: {"type": "string", "description": meaning} for name, meaning in meanings.items()}
    return {"type": "object", "properties": properties, "required": list(meanings)}


def build_python_tool(pool: ProgramPool) -> Tool:
    """Return a tool that runs Python programs in the sandbox; each call is a process of its own."""

    def run(arguments: Mapping[str, Any]) -> str:
        [result] = pool.run([Program(arguments["code"])])
        if result.status == "sandbox_error":
            raise ToolBrokenError(f"the sandbox failed: {result.why}")
        if result.status != "ok":
            raise ToolError("\n".join(part for part in (result.why or result.status, result.stdout) if part))
        return result.stdout.rstrip("\n") or "(nothing was printed)"

    return Tool(
        "python",
        "Runs a Python program and returns what it prints. Nothing is kept between calls.",
        take_text(code="the program"),
        run,
    )


def describe_function(function: Callable[..., Any], place: str) -> tuple[str, dict[str, Any]]:
    """Return a function's description and parameters, from its docstring's first paragraph and its signature.

    Raises:
        RecipeError: A parameter has no name of its own, or a type that JSON lacks.
    """
    try:
        hints = typing.get_type_hints(function)
        signature = inspect.signature(function)
    except (TypeError, ValueError, NameError) as error:
        raise RecipeError(f"the tool's signature cannot be read: {error}", place=place) from None
    properties, required = {}, []
    for name, parameter in signature.parameters.items():
        kind = hints.get(name, str)
        json_type = _JSON_TYPES.get(typing.get_origin(kind) or kind)
        if json_type is None or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise RecipeError(
                f"the tool's parameter '{parameter}'",
                expected=f"named parameters of the types {', '.join(known.__name__ for known in _JSON_TYPES)}",
                cure="change the signature, or give 'parameters' as a JSON schema in the recipe",
                place=place,
            )
        properties[name] = {"type": json_type}
        if parameter.default is parameter.empty:
            required.append(name)
    about = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
    return about, {"type": "object", "properties": properties, "required": required}


class TimedFunction:
    """A user's function as what a tool runs: in a thread of its own, given up after its time.

    Args:
        function: Called with the arguments by name; what it returns is turned into text.
        timeout_seconds: Wall-clock time of a call.
    """

    def __init__(self, function: Callable[..., Any], timeout_seconds: float) -> None:
        self._function = function
        self._timeout = timeout_seconds
        self._hung: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __call__(self, arguments: Mapping[str, Any]) -> str:
        """Return the result as text.

        Raises:
            ToolError: It raised, or did not return in time.
        """
        with self._lock:
            self._hung = [thread for thread in self._hung if thread.is_alive()]
            if len(self._hung) >= MAX_HUNG_CALLS:
                raise ToolError(f"{MAX_HUNG_CALLS} earlier calls have not returned")
        box: list[str | Exception] = []

        def work() -> None:
            try:
                box.append(str(self._function(**arguments)))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise anything: an observation
                box.append(ToolError(f"{type(error).__name__}: {error}"))

        thread = threading.Thread(target=work, name="tool", daemon=True)
        thread.start()
        thread.join(self._timeout)
        if not box:
            with self._lock:
                self._hung.append(thread)
            raise ToolError(f"no result within {self._timeout:g} s")
        if isinstance(box[0], Exception):
            raise box[0]
        return box[0]
