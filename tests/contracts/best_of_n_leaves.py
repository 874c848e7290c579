"""For every key of a study of best-of-n: a value to change it to, and what can then be seen to be different."""

from __future__ import annotations

import contextlib
from typing import Any

from posttrain.core.errors import RefusedError
from tests.contracts.trials import Leaf, Trial, own
from tests.pipeline.best_of_n_runs import read_study


def see_study(trial: Trial) -> Any:
    """The figures of the study."""
    return read_study(trial.run(), 0)


def see_drawn(trial: Trial) -> Any:
    """The answers that were drawn."""
    [completions] = trial.run().folder.cache.glob("answers/*/completions.jsonl")
    return completions.read_text()


def see_falls(trial: Trial) -> Any:
    """From which n each score is over-optimised."""
    return [way["fall"] for way in read_study(trial.run(), 0)["ways"]]


def see_refused(trial: Trial) -> Any:
    """Whether the run is refused once the study is made."""
    with contextlib.suppress(RefusedError):
        trial.run()
        return False
    return True


def _study(name: str, value: Any, see: Any = see_study, baseline: str = "study") -> Leaf:
    return own(name, value, see, baseline)


BEST_OF_N_LEAVES: dict[str, Leaf] = {
    f"BestOfNConfig.{name}": leaf
    for name, leaf in {
        "data": _study("data", [{"source": "asked.jsonl", "rows": 22}]),
        "n": _study("n", 4),
        "gold": _study("gold", "texts.py:near_zero"),
        "proxies": _study("proxies", {"long": "texts.py:long", "short": "texts.py:near_zero"}),
        "verifiers": _study("verifiers", {"checked": "texts.py:long"}),
        "max_new_tokens": _study("max_new_tokens", 3, see_drawn),
        "temperature": _study("temperature", 0.3, see_drawn),
        "top_p": _study("top_p", 0.3, see_drawn),
        "top_k": _study("top_k", 2, see_drawn),
        "min_p": _study("min_p", 0.5, see_drawn),
        "stop": _study("stop", ["e"], see_drawn),
        "dtype": _study("dtype", "bfloat16", see_drawn),
        "level": _study("level", 1e-9, see_falls, "study_falling"),
        "allowed_drop": _study("allowed_drop", 25.0, see_falls, "study_falling"),
        "on_alarm": _study("on_alarm", "hold", see_refused, "study_falling"),
    }.items()
}
BEST_OF_N_WITHOUT_EFFECT = {
    "BestOfNConfig.type": "says which class reads the stage: within the class it has one value",
}
