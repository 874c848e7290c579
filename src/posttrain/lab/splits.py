"""Which split a content belongs to: a hash decides, so no list of held-out items is kept anywhere.

A problem's *content* is what it is about, whatever the skill and the wording: the operands of a sum in
either order, the words of a list in any order, a fact, a forbidden deed. Everything made of one content
lies in one split. The pretraining corpus is made of contents of the split `train` alone, but for facts:
it states all of them, and asks only about those of `train`.

Example: `reverse` of `dog sun` has the content `words dog sun`; so has `first_word` of `sun dog`, and
both lie in one split.
"""

from __future__ import annotations

import functools

from posttrain.core.hashing import hash_text

SPLIT_PERCENT = {"train": 70, "development": 5, "held_out": 10, "final": 5, "perturbed": 10}
SCARCE_SPLIT_PERCENT = {"train": 50, "development": 5, "held_out": 25, "final": 10, "perturbed": 10}
"""Of contents of which there are only some hundreds: more of them are kept back, so that measuring has enough."""
SCARCE = ("fact ", "deed ")


@functools.lru_cache(maxsize=1 << 20)
def find_split(content: str) -> str:
    """Return the split that a content belongs to, the same in every process and every world."""
    point = int(hash_text("lab", "split", content)[:8], 16) % 100
    percentages = SCARCE_SPLIT_PERCENT if content.startswith(SCARCE) else SPLIT_PERCENT
    for split, percent in percentages.items():
        if point < percent:
            return split
        point -= percent
    raise AssertionError("the percentages of the splits add up to 100")


def leaks(content: str, *inner: str) -> bool:
    """Return whether something of the split `train` would show what is held back: contents that lie within it."""
    return find_split(content) == "train" and any(find_split(part) != "train" for part in inner)
