"""The language of a text, by character n-grams: offline, the same answer on every call and in every process.

`langdetect` (a port of Nakatani Shuyo's language-detection, Apache-2.0) draws at random while it decides; here every
text gets a detector of its own with a fixed seed, and the factory is private, so nothing global is set or read. What
it can NOT judge: a text of a few words, a mixture of languages, transliterations.
"""

from __future__ import annotations

import functools
from typing import Any

SEED = 0
MAX_CHARACTERS = 10_000
"""What the detector reads of a text; the rest changes nothing."""


@functools.cache  # no lock: a fork that finds one held waits for ever, and two factories are equal
def _load_factory() -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory  # 55 profiles: loaded when first asked

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.seed = SEED
    return factory


def list_languages() -> list[str]:
    """Return the codes of the languages that can be told apart, sorted (`en`, `zh-cn`, ...)."""
    return sorted(_load_factory().langlist)


def detect_languages(text: str) -> dict[str, float]:
    """Return the probable languages with their probabilities in (0, 1], most probable first.

    Empty for a text in which no letters of any language are found. Probabilities under 0.1 are left out.
    """
    from langdetect.lang_detect_exception import LangDetectException

    detector = _load_factory().create()
    detector.append(text[:MAX_CHARACTERS])
    try:
        return {found.lang: found.prob for found in detector.get_probabilities()}
    except LangDetectException:  # raised for a text without letters, and for nothing else here
        return {}


def detect_language(text: str) -> str | None:
    """Return the most probable language of a text, None where none can be told."""
    return next(iter(detect_languages(text)), None)
