"""What a program's neighbours notice of a bomb: their rate beside it, over their rate beside an ordinary program.

    python -m benchmarks.sandbox_neighbours [--tier landlock] [--seconds 5] [--rounds 2]

Two servers, one processor each at best: on one a program is run again and again (a bomb, or an ordinary program that
computes as long as it may), on the other trivial programs, whose rate is measured. Every bomb alternates with the
ordinary program, so that what else a machine does meets both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time

from posttrain.sandbox.programs import Program, ProgramLimits
from posttrain.sandbox.running import ProgramPool

LIMITS = ProgramLimits(cpu_seconds=1.0, wall_seconds=5.0, memory_bytes=512 << 20)
ORDINARY = "x = 0\nfor i in range(10**9): x += i * i"
NEIGHBOURS = {
    "an ordinary program": ORDINARY,
    "forks": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "memory": "while True:\n    x = []\n    try:\n        while True: x.append(bytearray(1 << 20))\n"
    "    except MemoryError: pass",
    "memory, small pages": "import mmap\nwhile True:\n    x = mmap.mmap(-1, 1 << 28)\n"
    "    for place in range(0, 1 << 28, 4096): x[place] = 1\n    x.close()",
    "spinning": "while True: pass",
    "spinning threads": "import threading\ndef spin():\n    while True: pass\n"
    "for _ in range(50): threading.Thread(target=spin).start()",
    "threads in C": "import hashlib, threading\nblock = bytes(1 << 24)\n"
    "def spin():\n    while True: hashlib.sha256(block)\n"
    "for _ in range(16): threading.Thread(target=spin).start()",
    "starting threads": "import threading\nwhile True:\n    try: threading.Thread(target=lambda: None).start()\n"
    "    except RuntimeError: pass",
    "output": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "errors": "import os\nwhile True: os.write(2, b'x' * 65536)",
    "system calls": "import os\nwhile True: os.stat('/')",
}


def measure(tier: str, neighbour: str, seconds: float) -> float:
    """Return the rate of trivial programs beside a neighbour, programs a second."""
    trivial = [Program("def f(x):\n    return x + 1", entry="f", args=(number,)) for number in range(20)]
    over = threading.Event()
    with ProgramPool(1, tier=tier, limits=LIMITS) as beside, ProgramPool(1, tier=tier, limits=LIMITS) as measured:

        def keep_busy() -> None:
            while not over.is_set():
                beside.run([Program(neighbour)])

        measured.run(trivial)
        beside.run(trivial)
        thread = threading.Thread(target=keep_busy)
        thread.start()
        time.sleep(0.2)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            measured.run(trivial)
            count += len(trivial)
        rate = count / (time.perf_counter() - start)
        over.set()
        thread.join()
    return rate


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tier", default="landlock")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{arguments.tier}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    for name, source in NEIGHBOURS.items():
        pairs = [
            (measure(arguments.tier, ORDINARY, arguments.seconds), measure(arguments.tier, source, arguments.seconds))
            for _ in range(arguments.rounds)
        ]
        shares = sorted(100 * beside / usual for usual, beside in pairs)
        usual = statistics.median(pair[0] for pair in pairs)
        middle = statistics.median(shares)
        print(f"beside {name:22} {middle:6.1f} % ({shares[0]:.1f} to {shares[-1]:.1f}) of {usual:.0f}/s", flush=True)


if __name__ == "__main__":
    main()
