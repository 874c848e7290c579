"""Matching a trusted pattern against a text that nobody trusts, at a bounded cost.

The `regex` package searches like `re` and can be told to give up: a pattern such as `(a|aa)+b` takes exponential time
on the right text, and neither a thread nor a signal can stop `re`.
"""

from __future__ import annotations

import functools
from typing import Any

import regex

TIMEOUT_SECONDS = 1.0
"""Wall-clock time of one match: thousands of times what a sane pattern takes, so that load turns no verdict."""


class PatternTimeoutError(Exception):
    """A match that was given up."""


@functools.lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> Any:
    """Return the compiled pattern.

    Raises:
        ValueError: It is no regular expression.
    """
    try:
        return regex.compile(pattern, regex.V0)  # V0: `re`'s own meaning
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"no regular expression: {error}") from None


def matches_whole(pattern: str, text: str) -> bool:
    """Return whether the whole of a text matches.

    Raises:
        PatternTimeoutError: It took longer than `TIMEOUT_SECONDS`.
    """
    return _run(compile_pattern(pattern).fullmatch, text)


def is_found(pattern: str, text: str) -> bool:
    """Return whether a pattern is found anywhere in a text.

    Raises:
        PatternTimeoutError: It took longer than `TIMEOUT_SECONDS`.
    """
    return _run(compile_pattern(pattern).search, text)


def _run(match: Any, text: str) -> bool:
    try:
        return match(text, timeout=TIMEOUT_SECONDS, concurrent=True) is not None
    except TimeoutError:
        raise PatternTimeoutError(f"the match was given up after {TIMEOUT_SECONDS:g} s") from None
