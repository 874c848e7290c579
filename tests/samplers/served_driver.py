"""Draws from an endpoint in a process of its own: `python -m tests.samplers.served_driver URL FOLDER COUNT`.

Prints one JSON line a completion: index, text.
"""

from __future__ import annotations

import json
import sys

from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.served import ServedSampler
from posttrain.samplers.served_settings import ServedSettings
from tests.samplers.endpoint import QUICK, build_problems

MAX_IN_FLIGHT = 4


def main(url: str, folder: str, count: int) -> None:
    """Draw one completion of each of so many problems."""
    limits = {**QUICK, "max_in_flight": MAX_IN_FLIGHT}
    sampler = ServedSampler(ServedSettings(base_url=url, model="tiny", cache=folder, limits=limits))
    for index, completion in sampler.sample(build_problems(count), SamplingSettings(max_new_tokens=8), range(count)):
        print(json.dumps([index, completion.text]), flush=True)
    sampler.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
