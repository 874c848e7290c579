"""The sandbox for hours: 20,000 programs, a tenth of them hostile, and a thousand that hang."""

from __future__ import annotations

import gc
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from posttrain.sandbox.programs import Program, ProgramLimits
from posttrain.sandbox.running import ProgramPool
from tests.sandbox.attack_run import fill, list_denied
from tests.sandbox.attacks import ATTACKS, Attack
from tests.sandbox.exhaustion import EXHAUSTION, RECORD
from tests.sandbox.test_pool import children

pytestmark = pytest.mark.soak

NUM_PROGRAMS = 20_000
BATCH = 500
WARM_UP = 4_000
LIMITS = ProgramLimits(cpu_seconds=0.05, wall_seconds=0.25, memory_bytes=64 << 20, output_bytes=1 << 16)
ROOMY = ProgramLimits(cpu_seconds=5.0, wall_seconds=120.0, memory_bytes=64 << 20, output_bytes=1 << 16)
HOSTILE = [*ATTACKS, *EXHAUSTION, *RECORD]
PLACES: dict[str, object] = {
    "secret": "/etc/hostname", "folder": "/tmp", "port": 1, "name": "nobody", "socket": "/tmp/no-socket",
    "token": "hidden-word-of-the-soak", "denied": list_denied(),
}  # fmt: skip


@pytest.fixture(params=["landlock", "bubblewrap"])
def tier(request: pytest.FixtureRequest) -> str:
    if request.param == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return str(request.param)


def make_hostile(attack: Attack) -> Program:
    return Program(fill(attack.source, PLACES), entry=attack.entry)


def list_servers() -> list[int]:
    """Return the processes of the servers: this process's children, and theirs."""
    first = children()
    return sorted(first | {child for parent in first for child in list_children(parent)})


def list_children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def measure() -> dict[str, int]:
    """Return what may grow: processes, descriptors, mounts and resident memory, of this process and its servers."""
    gc.collect()
    everyone = [os.getpid(), *list_servers()]
    found: Counter[str] = Counter(processes=len(everyone))
    for process in everyone:
        folder = Path("/proc") / str(process)
        found["descriptors"] += len(list((folder / "fd").iterdir()))
        found["mounts"] += len((folder / "mountinfo").read_text().splitlines())
        found["resident_kb"] += int((folder / "status").read_text().split("VmRSS:")[1].split()[0])
    return dict(found)


def test_twenty_thousand_programs_of_which_a_tenth_is_hostile_leave_nothing_behind(tier: str) -> None:
    """Every ordinary program is judged right beside the hostile ones, and nothing grows after the warm-up."""
    generator = random.Random(11)
    before = children()
    statuses: Counter[str] = Counter()
    first: dict[str, int] = {}
    with ProgramPool(2, tier=tier) as pool:
        for start in range(0, NUM_PROGRAMS, BATCH):
            hostile = {number for number in range(BATCH) if generator.random() < 0.1}
            ordinary = [
                Program("def f(x):\n    return x * x", entry="f", args=(start + number,))
                for number in range(BATCH)
                if number not in hostile
            ]
            attacks = [generator.choice(HOSTILE) for _ in hostile]
            results = pool.run(list(map(make_hostile, attacks)), LIMITS)
            for attack, result in zip(attacks, results, strict=True):
                assert "open" not in result.stdout and result.status != "sandbox_error", (attack.name, result)
                statuses[result.status] += 1
            values = [result.value for result in pool.run(ordinary, ROOMY)]
            assert values == [program.args[0] ** 2 for program in ordinary]
            statuses["ok"] += len(values)
            if start + BATCH == WARM_UP:
                first = measure()
        last = measure()
    print(f"{tier}: {dict(statuses)}; after {WARM_UP}: {first}; after {NUM_PROGRAMS}: {last}")
    assert statuses.total() == NUM_PROGRAMS
    assert last["resident_kb"] < 1.01 * first["resident_kb"]
    assert {name: value for name, value in last.items() if name != "resident_kb"} == {
        name: value for name, value in first.items() if name != "resident_kb"
    }
    assert children() == before


def test_a_thousand_hangs_leave_the_pool_whole_and_no_zombie(tier: str) -> None:
    before = children()
    hangs = [
        Program("import time\ntime.sleep(10**6)"),
        Program("import threading\nthreading.Event().wait()"),
        Program("while True: pass"),
        Program("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass"),
        Program("import sys\nsys.stdin.read()\nimport select\nselect.select([], [], [])"),
    ]
    limits = ProgramLimits(cpu_seconds=0.02, wall_seconds=0.1, memory_bytes=64 << 20, output_bytes=1 << 12)
    with ProgramPool(8, tier=tier) as pool:
        pool.run([Program("print(1)")] * 64)
        servers = list_servers()
        results = pool.run(hangs * 200, limits)
        assert Counter(result.status for result in results) == {"timeout": 1000}
        assert [result.stdout for result in pool.run([Program("print(1)")] * 20, ROOMY)] == ["1\n"] * 20
        assert list_servers() == servers
        assert [state for process in servers if (state := read_state(process)) == "Z"] == []
    assert children() == before


def read_state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
