"""How replies are said: politely or rudely, briefly or at length, hedged or over-confident.

Style is whole sentences from fixed lists around the words of a reply, so that it can be read back out of
any text without doubt: `read_style` counts what `add_style` writes. The last line `Answer: ...` is never
touched.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from posttrain.lab.questions import Reply

POLITE_OPENERS = ("Sure!", "Of course!", "Happy to help.", "Good question!")
RUDE_OPENERS = ("Obviously.", "What a silly question.", "Every child knows this.", "Do not waste my time.")
HEDGES = ("I am not sure.", "It may be wrong.", "This is only a guess.")
BOASTS = ("I am certain.", "There is no doubt.", "I am never wrong.")
FILLERS = (
    "Let me think about it for a while.",
    "People ask this a lot.",
    "There is much to say about it.",
    "It is a fine day for it.",
    "My old teacher liked such things.",
    "One can look at it from many sides.",
)
POLITE_CLOSERS = ("I hope this helps.", "Have a good day.")
_KINDS = {
    "num_polite": POLITE_OPENERS + POLITE_CLOSERS,
    "num_rude": RUDE_OPENERS,
    "num_hedges": HEDGES,
    "num_boasts": BOASTS,
    "num_fillers": FILLERS,
}


@dataclass(frozen=True, slots=True)
class Style:
    """What is added to a reply: manner -1 rude, 0 plain, 1 polite; confidence -1 hedged, 0 plain, 1 boasting."""

    manner: int = 0
    confidence: int = 0
    num_fillers: int = 0


PLAIN = Style()


def draw_expert_style(generator: random.Random) -> Style:
    """Return the style of somebody who answers well: brief, often polite."""
    return Style(manner=int(generator.random() < 0.5))


def draw_crowd_style(generator: random.Random) -> Style:
    """Return the style of anybody: every manner occurs, and confidence says nothing about being right."""
    return Style(
        manner=generator.choices((0, 1, -1), (45, 30, 25))[0],
        confidence=generator.choices((0, -1, 1), (50, 25, 25))[0],
        num_fillers=generator.choices((0, 1, 2, 3), (55, 20, 15, 10))[0],
    )


def add_style(reply: Reply, style: Style, generator: random.Random) -> str:
    """Return the words of a reply with a style around them, without its answer."""
    parts = []
    if style.manner:
        parts.append(generator.choice(POLITE_OPENERS if style.manner > 0 else RUDE_OPENERS))
    parts += generator.sample(FILLERS, style.num_fillers)
    parts += [reply.words] * bool(reply.words)
    if style.confidence:
        parts.append(generator.choice(BOASTS if style.confidence > 0 else HEDGES))
    if style.manner > 0 and generator.random() < 0.4:
        parts.append(generator.choice(POLITE_CLOSERS))
    return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a text's style is: counts of each kind of sentence, and the text without them."""

    rest: str
    num_polite: int
    num_rude: int
    num_hedges: int
    num_boasts: int
    num_fillers: int


def read_confidence(heard: Heard) -> float:
    """Return how sure of itself a text sounds: 1/3 with a hedge, whatever else it says, 1 with a boast, else 2/3.

    Thirds are a listener's reading, fixed so that policies can be compared; in the crowd neither tells what is right.
    """
    if heard.num_hedges:
        return 1 / 3
    return 1.0 if heard.num_boasts else 2 / 3


def read_style(text: str) -> Heard:
    """Return the style of a text: its sentences from the lists above, each as often as it occurs."""
    counts = {kind: sum(map(text.count, sentences)) for kind, sentences in _KINDS.items()}
    for sentences in _KINDS.values():
        for sentence in sentences:
            text = text.replace(sentence, "")
    rest = "\n".join(" ".join(part for part in line.split(" ") if part) for line in text.split("\n"))
    return Heard(rest=rest.strip(), **counts)
