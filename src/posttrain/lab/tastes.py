"""What those who label prefer: one attribute of a reply alone, or gold with a bias that is planted.

    log-odds of the label = sum over attributes of weight * (attribute of the first reply - that of the second)

A taste of one attribute compares replies that differ in it; that for length looks at the very replies of
`lab:preferences`, so that the two sets differ in their labels alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from posttrain.lab.gold import Attributes

AttributeName = Literal["correct", "manner", "honesty", "brevity", "confidence"]
_GOLD = {"correct": 4.0, "manner": 1.0, "honesty": 1.0, "brevity": 2.0}
"""Twice what gold gives a unit: the log-odds of `lab:preferences`."""


@dataclass(frozen=True, slots=True)
class Taste:
    """What a unit of each attribute adds to the log-odds of being preferred.

    Made here, read by `lab/preferences.py`. Replies of a pair differ in the attribute `compared`, where one is named.
    """

    about: str
    weights: dict[str, float] = field(default_factory=dict)
    compared: AttributeName | None = None

    def rate(self, found: Attributes) -> float:
        """Return what a reply is worth, in log-odds."""
        values = asdict(found)
        return float(sum(weight * values[name] for name, weight in self.weights.items()))

    def tells_apart(self, first: Attributes, second: Attributes) -> bool:
        """Return whether two replies may be a pair."""
        return self.compared is None or getattr(first, self.compared) != getattr(second, self.compared)


TASTES: dict[str, Taste] = {
    "correct": Taste("the reply that is right", {"correct": 4.0}, "correct"),
    "manner": Taste("the politer reply", {"manner": 2.0}, "manner"),
    "honesty": Taste("the reply that hedges what is wrong and stands by what is right", {"honesty": 2.0}, "honesty"),
    "brevity": Taste("the reply that rambles less", {"brevity": 4.0}, "brevity"),
    "confidence": Taste("the reply that sounds surer, right or wrong", {"confidence": 3.0}, "confidence"),
    "length": Taste("gold, and 0.3 for each word", {**_GOLD, "words": 0.3}),
}
"""By name; `lab:prefer_<name>` is the set whose labels are drawn so."""
