"""Where the steps of a solution end, in tokens: what a process reward model is trained on and read at.

A step ends with the separator that follows it, the last one with the completion. It is read at the token that
completes it: for the last step the completion's last token (its end of turn), for another the token in which the step's
last character lies, which may hold the separator too. The rule needs nothing but the ids and their texts, so that a
completion that a sampler drew is read exactly where training rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"
_MOST_TOKENS_OF_A_CHARACTER = 8


def split_ids(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """Return each token's text; a character of several tokens stands at the one that completes it.

    Args:
        ids: Token ids.
        decode: Gives the text of ids as it stands inside a longer text.
    """
    texts: list[str] = []
    start = 0
    for end in range(1, len(ids) + 1):
        text = decode(ids[start:end])
        if text.endswith(_INCOMPLETE) and end - start < _MOST_TOKENS_OF_A_CHARACTER and end < len(ids):
            texts.append("")
            continue
        texts.append(text)
        start = end
    return texts


def find_step_ends(texts: Sequence[str], separator: str) -> list[int]:
    """Return the token at which each step of a completion is read, ascending, at least one of a completion with tokens.

    Steps of white space alone are none, so that separators in a row, and one at the end, make no step.

    Args:
        texts: The text of each token of the completion, its end of turn included, which is no part of a step.
        separator: What stands between two steps, at least one character.

    Example: tokens `["a", " b", "\\n", "c", "\\n", "<end>"]` with the separator `"\\n"` give `[1, 5]`.
    """
    body = texts[:-1]
    starts = [0]
    for text in body:
        starts.append(starts[-1] + len(text))
    whole = "".join(body)
    ends: list[int] = []
    token = position = 0
    for step in whole.split(separator):
        if step.strip():
            last = position + len(step.rstrip()) - 1
            while token < len(body) and starts[token + 1] <= last:
                token += 1
            ends.append(token)
        position += len(step) + len(separator)
    return [*dict.fromkeys(ends[:-1]), len(texts) - 1] if texts else []
