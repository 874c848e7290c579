"""How much a sequence repeats itself: shares in [0, 1] that are the same on every machine, in near-linear time."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence


def compute_repeated_fraction(units: Sequence[Hashable], n: int) -> float:
    """Return 1 - (different n-grams) / (n-grams), in [0, 1); 0 where there are fewer than n units.

    Source: the complement of distinct-n (Li et al. 2016, arXiv 1510.03055). By hand: `a b a b a` has the bigrams ab,
    ba, ab, ba, so 1 - 2/4 = 0.5.
    """
    total = len(units) - n + 1
    if total <= 0:
        return 0.0
    return 1.0 - len({tuple(units[start : start + n]) for start in range(total)}) / total


def compute_longest_repeat(units: Sequence[Hashable]) -> float:
    """Return the length of the longest run of units that occurs at least twice, as a share of all units, in [0, 1).

    The two may overlap: `a a a a` repeats a run of 3, which is 0.75; `a b c a b` one of 2, which is 0.4. A suffix
    automaton finds it in one pass.
    """
    following: list[dict[Hashable, int]] = [{}]
    length, link = [0], [-1]
    last = longest = 0
    for unit in units:
        current = len(length)
        length.append(length[last] + 1)
        following.append({})
        link.append(0)
        state = last
        while state >= 0 and unit not in following[state]:
            following[state][unit] = current
            state = link[state]
        if state >= 0:
            target = following[state][unit]
            if length[state] + 1 != length[target]:
                clone = len(length)
                length.append(length[state] + 1)
                following.append(dict(following[target]))
                link.append(link[target])
                while state >= 0 and following[state].get(unit) == target:
                    following[state][unit] = clone
                    state = link[state]
                link[target] = clone
                target = clone
            link[current] = target
            longest = max(longest, length[target])  # a suffix of what was read so far that has occurred before
        last = current
    return longest / len(units) if units else 0.0


def compute_compression_gain(text: str) -> float:
    """Return 1 - (bytes after DEFLATE at level 9) / (bytes before), in [0, 1]; 0 where it grows.

    Plain English prose of a few hundred words gives about 0.4 to 0.55, a phrase said a hundred times over 0.95. Short
    texts give less than they would in a longer one. Another build of zlib may differ in the last digits.
    """
    content = text.encode("utf-8", errors="replace")
    return max(0.0, 1.0 - len(zlib.compress(content, 9)) / len(content)) if content else 0.0
