"""A peer's verdicts on pairs of a gold answer and a completion, one JSON line in, one out.

    python benchmarks/peer_math.py math_verify < pairs.jsonl

Runs in the peer's own environment and imports nothing of this project. Whoever starts it keeps the time: a peer may
hang, and then prints nothing more.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable


def build_math_verify() -> Callable[[str, str], bool]:
    from math_verify import parse, verify

    return lambda gold, text: bool(verify(parse(f"${gold}$"), parse(text)))


def build_trl() -> Callable[[str, str], bool]:
    from trl.rewards import accuracy_reward

    return lambda gold, text: accuracy_reward([[{"content": text}]], [f"${gold}$"])[0] == 1.0


def main() -> None:
    logging.disable(logging.CRITICAL)
    judge = {"math_verify": build_math_verify, "trl": build_trl}[sys.argv[1]]()
    judge("1", "$\\boxed{1}$")  # loads what is loaded lazily
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        pair = json.loads(line)
        start = time.process_time()
        try:
            answer = {"is_right": judge(pair["gold"], pair["text"])}
        except Exception as error:  # noqa: BLE001 - a peer's own code may raise anything: counted
            answer = {"is_right": False, "raised": type(error).__name__}
        print(json.dumps({**answer, "cpu_seconds": time.process_time() - start}), flush=True)


if __name__ == "__main__":
    main()
