"""What becomes of programs: values, output and failures, in every tier that this machine has."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator

import pytest

from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult
from posttrain.sandbox.running import ProgramPool

LIMITS = ProgramLimits(cpu_seconds=5.0, wall_seconds=60.0, memory_bytes=256 << 20, output_bytes=1 << 16)


@pytest.fixture(params=["landlock", "bubblewrap"], scope="module")
def pool(request: pytest.FixtureRequest) -> Iterator[ProgramPool]:
    if request.param == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    with ProgramPool(1, tier=request.param, limits=LIMITS) as pool:
        yield pool


def call(pool: ProgramPool, source: str, *args: object, **kwargs: object) -> ProgramResult:
    return pool.run([Program(source, entry="f", args=args, kwargs=dict(kwargs))])[0]


def script(pool: ProgramPool, source: str, stdin: str = "") -> ProgramResult:
    return pool.run([Program(source, stdin=stdin)])[0]


def test_the_tier_is_the_one_asked_for_and_its_probes_are_recorded(pool: ProgramPool) -> None:
    found = pool.self_check
    assert pool.tier == found.tier in ("landlock", "bubblewrap")
    assert found.is_safe and found.failures == ()
    assert len(found.probes) >= 18
    assert found.to_json()["probes"][0] == {"tier": pool.tier, "name": found.probes[0].name, "passed": True,
                                            "found": "", "cure": ""}  # fmt: skip


def test_a_value_comes_back_with_its_types(pool: ProgramPool) -> None:
    value = [
        1,
        2.5,
        -0.0,
        "ü\ud800\0",
        b"\xff",
        None,
        True,
        10**400,
        (1, [2]),
        {"a": {1, 2}, (1, 2): frozenset("x")},
        1j,
    ]
    result = call(pool, "def f(x, *, y):\n    return [x, y]", value, y=math.inf)
    assert result.status == "ok"
    assert repr(result.value) == repr([value, math.inf])


def test_arguments_may_be_changed_without_the_judge_noticing(pool: ProgramPool) -> None:
    items = [1, 2, 3]
    result = call(pool, "def f(xs):\n    total = sum(xs)\n    xs.clear()\n    return total", items)
    assert (result.value, items) == (6, [1, 2, 3])


def test_the_output_of_a_function_is_kept_beside_its_value(pool: ProgramPool) -> None:
    result = call(pool, "print('loading')\ndef f():\n    print('called', end='')\n    return 1")
    assert (result.value, result.stdout) == (1, "loading\ncalled")


def test_a_function_is_run_in_a_module_and_a_script_as_main(pool: ProgramPool) -> None:
    assert call(pool, "def f(): return __name__").value not in ("__main__", "builtins")
    assert script(pool, "if __name__ == '__main__': print('main')").stdout == "main\n"


def test_dataclasses_enumerations_and_annotations_work(pool: ProgramPool) -> None:
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom enum import Enum\n"
        "class Kind(Enum):\n    A = 1\n@dataclass\nclass Point:\n    x: int\n    kind: Kind = Kind.A\n"
        "def f(): return [Point(2).x, Point(1).kind.value, repr(Point(3))]"
    )
    assert call(pool, source).value == [2, 1, "Point(x=3, kind=<Kind.A: 1>)"]


def test_the_standard_library_can_be_imported(pool: ProgramPool) -> None:
    source = (
        "import asyncio, bisect, calendar, csv, hashlib, html, ipaddress, itertools, json, lzma, secrets, sqlite3\n"
        "import uuid, urllib.parse, xml.etree.ElementTree, zoneinfo, concurrent.futures, unittest, logging, difflib\n"
        "def f():\n    db = sqlite3.connect(':memory:')\n    return [db.execute('select 6 * 7').fetchone()[0],\n"
        "        hashlib.sha256(b'x').hexdigest()[:8], len(lzma.compress(b'x' * 100)) > 0]"
    )
    result = call(pool, source)
    assert result.value == [42, "2d711642", True], result


def test_threads_thread_pools_and_event_loops_work(pool: ProgramPool) -> None:
    source = (
        "import asyncio, threading\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "async def later(x):\n    await asyncio.sleep(0.01)\n    return x\n"
        "async def both(): return await asyncio.gather(later(1), later(2))\n"
        "def f():\n    out = []\n    thread = threading.Thread(target=lambda: out.append(3))\n    thread.start()\n"
        "    thread.join()\n    with ThreadPoolExecutor(4) as pool:\n"
        "        return [asyncio.run(both()), out, list(pool.map(abs, [-4, 5]))]"
    )
    assert call(pool, source).value == [[1, 2], [3], [4, 5]]


def test_standard_input_is_read_in_every_usual_way(pool: ProgramPool) -> None:
    sources = [
        "print(input() + input())",
        "import sys\nprint(''.join(sys.stdin.read().split('\\n')))",
        "import sys\nprint(''.join(line.strip() for line in sys.stdin))",
        "print(''.join(open(0).read().split()))",
        "import os\nprint(os.read(0, 99).decode().replace('\\n', ''))",
        "import sys\nprint(b''.join(sys.stdin.buffer.read().split()).decode())",
        "import fileinput\nprint(''.join(line.strip() for line in fileinput.input()))",
    ]
    results = pool.run([Program(source, stdin="ab\nçd\n") for source in sources])
    assert [result.stdout for result in results] == ["abçd\n"] * len(sources)


def test_standard_output_is_written_in_every_usual_way(pool: ProgramPool) -> None:
    sources = [
        "print('x')",
        "import sys\nsys.stdout.write('x\\n')",
        "import sys\nsys.stdout.buffer.write(b'x\\n')",
        "import os\nos.write(1, b'x\\n')",
        "import atexit\natexit.register(print, 'x')",
        "import sys, io\nreal, sys.stdout = sys.stdout, io.StringIO()\nprint('x')\nreal.write(sys.stdout.getvalue())",
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('x'))).start()",
        "import sys\nprint('x')\nsys.exit()",
        "print('x')\nexit(0)",
        "import os, sys\nprint('x')\nsys.stdout.flush()\nos._exit(0)",
        "import sys\nprint('y', file=sys.stderr)\nprint('x')",
    ]
    results = pool.run([Program(source) for source in sources])
    assert [(result.status, result.stdout) for result in results] == [("ok", "x\n")] * len(sources)


def test_a_script_that_closes_its_output_has_none(pool: ProgramPool) -> None:
    result = script(pool, "import os\nprint('x')\nos.close(1)")
    assert (result.status, result.stdout) == ("ok", "")


def test_exits_are_crashes_but_for_a_script_that_says_it_went_well(pool: ProgramPool) -> None:
    assert script(pool, "import sys\nsys.exit(3)").status == "crash"
    assert script(pool, "raise SystemExit('no')").status == "crash"
    for source in ("import sys\nsys.exit(0)\ndef f(): pass", "def f(): exit()", "import os\ndef f(): os._exit(0)"):
        assert call(pool, source).status == "crash"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def f(): return 1 / 0", ["ZeroDivisionError", "line 1"]),
        ("x = 1\ndef f(:", ["SyntaxError"]),
        ("def f(): return 1\n\0", ["null bytes"]),
        ("\ud800", ["surrogates"]),
        ("def g(): pass", ["defines no 'f'"]),
        ("f = 3", ["TypeError", "not callable"]),
        ("def f(x): pass", ["TypeError", "missing"]),
        ("def f(): raise KeyboardInterrupt", ["KeyboardInterrupt"]),
        ("def f(): raise BaseException('x' * 10**6)", ["BaseException: xxx"]),
        ("import numpy_is_not_here", ["ModuleNotFoundError"]),
    ],
)
def test_exceptions_are_told_with_their_words(pool: ProgramPool, source: str, words: list[str]) -> None:
    result = call(pool, source)
    assert result.status == "raised"
    assert [word for word in words if word not in result.why] == []
    assert len(result.why) < 1000


def test_output_before_a_failure_is_kept(pool: ProgramPool) -> None:
    assert script(pool, "print('x')\n1 / 0").stdout == "x\n"
    assert script(pool, "print('x', flush=True)\nimport os\nos.abort()").stdout == "x\n"


def test_a_program_sees_nothing_of_its_surroundings(pool: ProgramPool) -> None:
    source = (
        "import os, sys, inspect\ndef f():\n    frame, names = sys._getframe(1), set()\n    while frame:\n"
        "        names |= set(frame.f_locals)\n        frame = frame.f_back\n"
        "    return [sys.argv, dict(os.environ), sorted(names & {'expected', 'want', 'answer', 'tests', 'outputs'}),\n"
        "        [d for d in range(64) if not closed(d)]]\n"
        "def closed(d):\n    try: os.fstat(d)\n    except OSError: return True"
    )
    assert call(pool, source).value == [["program.py"], {}, [], [0, 1, 2]]


SCAN = """
import ctypes, gc, os
def f(pieces):
    held = ''.join(pieces[2:]) * 50
    patterns = [(''.join(pieces[:2]) * 2).encode(), (''.join(pieces[2:]) * 2).encode()]
    patterns = [bytes(reversed(pattern)) for pattern in patterns]
    libc, (r, w), found = ctypes.CDLL(None), os.pipe(), [0, 0]
    bases = {(id(anchor) & ~0xFFFFFF) + shift for anchor in (gc, held) for shift in (-(1 << 24), 0, 1 << 24)}
    for place in sorted(place for base in bases for place in range(base, base + (1 << 24), 4096)):
        if libc.write(w, ctypes.c_void_p(place), 4096) == 4096:
            page = os.read(r, 4096)[::-1]
            found = [count + page.count(pattern) for count, pattern in zip(found, patterns)]
    return [found[0], found[1] > 10, len(held)]
"""


def test_nothing_of_one_program_is_in_the_memory_of_the_next(pool: ProgramPool) -> None:
    """A word that one program holds and prints is nowhere in what the next one inherits; its own word it finds."""
    first = "word = 'Quetzalcoatl' * 50\nprint(word)\ndef f(): return word"
    for _ in range(3):
        assert call(pool, first).value == "Quetzalcoatl" * 50
    result = call(pool, SCAN, ["Quetzal", "coatl", "Huitzilo", "pochtli"])
    assert (result.status, result.value) == ("ok", [0, True, 750]), result


def test_unseeded_chance_and_the_order_of_sets_are_the_same_every_time(pool: ProgramPool) -> None:
    source = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd'}), hash('x')]"
    values = [call(pool, source).value for _ in range(3)]
    assert values[0] == values[1] == values[2]


def test_deep_recursion_works_where_a_program_asks_for_it(pool: ProgramPool) -> None:
    source = "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)"
    assert call(pool, source, 20_000).value == 20_000


def test_limits_name_themselves(pool: ProgramPool) -> None:
    brief = ProgramLimits(cpu_seconds=0.1, wall_seconds=0.5, memory_bytes=64 << 20, output_bytes=1000)
    programs = [
        Program("while True: pass"),
        Program("import time\ntime.sleep(9)"),
        Program("x = 'a' * 10**9"),
        Program("print('x' * 2000)"),
        Program("def f(): return 'x' * 2000", entry="f"),
    ]
    results = pool.run(programs, brief)
    assert [result.status for result in results] == ["timeout", "timeout", "memory", "output", "output"]
    assert "0.1 s of CPU" in results[0].why and "0.5 s of wall-clock" in results[1].why
    assert "1000 bytes" in results[3].why and results[0].cpu_seconds >= 0.1 > results[1].cpu_seconds
    assert all(len(result.stdout) <= 1000 for result in results)


def test_a_value_of_the_allowed_size_comes_back_whole(pool: ProgramPool) -> None:
    value = "x" * (LIMITS.output_bytes - 16)
    result = call(pool, "def f(n): return 'x' * n", len(value))
    assert (result.status, result.value == value) == ("ok", True)


@pytest.mark.parametrize("tier", ["landlock", "bubblewrap"])
def test_a_program_that_waits_for_a_processor_is_not_timed_out_by_the_clock_on_the_wall(tier: str) -> None:
    """Sixteen programs compute 0.2 s each on few processors: all need longer than 0.3 s, and none sleeps."""
    if tier == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    alone = "import time\nwhile time.process_time() < start + 0.2: pass\nprint('done')"
    in_thread = "import threading\ndef work():\n    " + alone.replace("\n", "\n    ")
    sources = [
        f"import time\nstart = time.process_time()\n{alone}",
        f"import time\nstart = time.process_time()\n{in_thread}\n"
        "t = threading.Thread(target=work)\nt.start()\nt.join()",
    ]
    limits = ProgramLimits(cpu_seconds=5.0, wall_seconds=0.3, memory_bytes=128 << 20)
    with ProgramPool(16, tier=tier, limits=limits) as pool:
        pool.run([Program("print(1)")] * 16, LIMITS)
        results = pool.run([Program(source) for source in sources * 8])
        assert [result.stdout for result in results] == ["done\n"] * 16, [result.why for result in results]
        assert pool.run([Program("import time\ntime.sleep(60)")])[0].status == "timeout"
