"""Runs a test's own code in a sandbox where the program is absent: what stands for it knows only recorded answers.

This file is no part of the package when it works: its text is the source of a sandboxed program
(`code_scripts`), so that it imports the standard library alone. `run_tests` executes the test's code with a
stand-in for each function of the program. A stand-in looks up the answer to its call. Where it has none, it
notes the call and returns a guess that takes part in anything, so that the calls that follow become known too;
the verdict of such a run does not count. Every assertion is written `try: assert ... except Exception: settle()`
by the caller: it stands where no guess was given, and is passed over where one was.
"""

from __future__ import annotations

import builtins
import random
import traceback
from typing import Any

MAX_GUESS_USES = 10_000
_SCALARS = (bool, int, float, complex, str, bytes, type(None))


class _Stop(BaseException):
    """Ends the test's code, past every handler of its own but the broadest."""


class _GuessError(Exception):
    """A guess is about to be sent to the program."""


class _Run:
    """The answers, the calls that lack one, and how the run stands."""

    def __init__(self, answers: list[Any], max_calls: int, is_guessing: bool) -> None:
        self.answers: dict[Any, list[tuple[int, Any]]] = {}
        for number, (function, args, kwargs, answer) in enumerate(answers):
            self.answers.setdefault(_key([function, args, kwargs]), []).append((number, answer))
        self.num_uses: dict[Any, int] = {}
        self.asked: list[Any] = []
        self.num_calls = 0
        self.num_guess_uses = 0
        self.max_calls = max_calls
        self.is_guessing = is_guessing
        self.end: dict[str, Any] | None = None

    def stop(self, **end: Any) -> _Stop:
        """Note how the run ended; the first end counts."""
        self.end = self.end or end
        return _Stop()

    def call(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the recorded answer to a call, or a guess."""
        if self.end is not None:
            raise _Stop
        self.num_calls += 1
        if self.num_calls > self.max_calls:
            raise self.stop(state="asked", is_full=True) if self.asked else self.stop(state="too_many")
        try:
            sent = _copy([function, list(args), kwargs], 0)
        except _GuessError:
            raise self.stop(state="asked") from None
        except TypeError as error:
            state = "asked" if self.asked else "unsendable"
            raise self.stop(state=state, unsendable=str(error)) from None
        key = _key(sent)
        used = self.num_uses.get(key, 0)
        self.num_uses[key] = used + 1
        known = self.answers.get(key, [])
        if used < len(known):
            number, answer = known[used]
            kind, *values = answer
            if kind == "returned":
                return values[0]
            if kind == "raised":
                raise _build_exception(*values)
            raise self.stop(state="asked") if self.asked else self.stop(state="ended", number=number)
        self.asked.append(sent)
        if not self.is_guessing:
            raise self.stop(state="asked")
        return _Guess(self)

    def settle(self) -> None:
        """Raise a failed assertion again where no guess was given."""
        if not self.asked:
            raise  # called from within a handler
        if self.end is not None:
            raise _Stop


class _Guess:
    """Stands for an answer that is not known: it takes part in every operation, for a bounded number of times."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def _use(self) -> None:
        self._run.num_guess_uses += 1
        if self._run.num_guess_uses > MAX_GUESS_USES:
            raise self._run.stop(state="asked")

    def _give_self(self, *_args: Any, **_kwargs: Any) -> Any:
        self._use()
        return self

    def _give_true(self, *_args: Any) -> bool:
        self._use()
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._use()
        return self

    def __iter__(self) -> Any:
        self._use()
        return iter(())

    def __len__(self) -> int:
        self._use()
        return 0

    def __int__(self) -> int:
        self._use()
        return 0

    def __float__(self) -> float:
        self._use()
        return 0.0

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return ""

    __index__ = __int__
    __repr__ = __str__


_SELF = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift"]
for _name in [*_SELF, *("r" + name for name in _SELF), "neg", "pos", "invert", "abs", "round", "call", "getitem"]:
    setattr(_Guess, f"__{_name}__", _Guess._give_self)
for _name in ["eq", "ne", "lt", "le", "gt", "ge", "bool", "contains"]:
    setattr(_Guess, f"__{_name}__", _Guess._give_true)


def run_tests(job: dict[str, Any]) -> dict[str, Any]:
    """Run a test's code once and return how it stands, as plain data.

    Args:
        job: `setup` and `tests` (texts of code), `functions` (name to expression in the program), `check` (a
            function to call with the stand-in of this name, or None), `answers` (function, args, kwargs, answer),
            `max_calls`, `is_guessing`, `seed`.

    Returns:
        `state` is `passed`, `failed` (`why`), `asked` (`calls` that lack an answer, and `is_full` where there are
        more), `ended` (the answer of `number` is none), `unsendable` or `too_many`; `num_calls` that were made, and
        as `unsendable` what an argument holds that is no plain data.
    """
    run = _Run(job["answers"], job["max_calls"], job["is_guessing"])
    random.seed(job["seed"])
    namespace: dict[str, Any] = {"__name__": "tests", "settle_assertion__": run.settle}
    state: dict[str, Any] = {"state": "passed"}
    try:
        exec(compile(job["setup"], "<setup>", "exec"), namespace)  # noqa: S102 - a test's own code, in its sandbox
        for name, function in job["functions"].items():
            namespace[name] = _stand_in(run, function)
        exec(compile(job["tests"], "<tests>", "exec"), namespace)  # noqa: S102 - a test's own code, in its sandbox
        if job["check"] is not None:
            namespace["check"](namespace[job["check"]])
    except _Stop:
        pass
    except BaseException as error:  # noqa: BLE001 - a test's own code may raise anything: it has failed
        state = {"state": "failed", "why": _describe(error, job)}
    if run.end is not None:
        state = run.end
    elif run.asked:
        state = {"state": "asked"}
    return {**state, "calls": run.asked, "num_calls": run.num_calls}


def _stand_in(run: _Run, function: str) -> Any:
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        return run.call(function, args, kwargs)

    return stand_in


def _copy(value: Any, depth: int) -> Any:
    """Return a copy of plain data; the test may change its own later."""
    kind = type(value)
    if kind in _SCALARS and depth <= 40:
        return value
    if kind is dict and depth <= 40:
        return {_copy(key, depth + 1): _copy(item, depth + 1) for key, item in value.items()}
    if kind in (list, tuple, set, frozenset) and depth <= 40:
        return kind([_copy(item, depth + 1) for item in value])
    if kind is _Guess:
        raise _GuessError
    raise TypeError(f"an argument holds a {kind.__name__}, which is no plain data")


def _key(value: Any) -> Any:
    """Return a text that is equal for equal calls alone."""
    kind = type(value)
    if kind is dict:
        return "{" + ",".join(sorted(f"{_key(key)}:{_key(item)}" for key, item in value.items())) + "}"
    if kind in (set, frozenset):
        return f"{kind.__name__}(" + ",".join(sorted(map(_key, value))) + ")"
    if kind in (list, tuple):
        return f"{kind.__name__}(" + ",".join(map(_key, value)) + ")"
    if kind is int:
        return f"int {value:x}"
    return f"{kind.__name__} {value!r}"


def _build_exception(name: str, message: str) -> BaseException:
    """Return an exception of a built-in class; one that wants other arguments is made without them."""
    kind = getattr(builtins, name, Exception)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = Exception
    try:
        return kind(message)
    except TypeError:
        return kind.__new__(kind)


def _describe(error: BaseException, job: dict[str, Any]) -> str:
    """Return the test's own line that failed, and the exception."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<tests>"]
    lines = job["tests"].splitlines()
    number = frames[-1].lineno if frames else None
    where = lines[number - 1].strip()[:200] if number is not None and number <= len(lines) else ""
    text = f"{type(error).__name__}: {error}"[:200].rstrip(": ")
    return f"{where} ({text})" if where else text
