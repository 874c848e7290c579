"""Programs that look for a way to be accepted, and odd ones that must be: (name, columns, text, is_accepted)."""

from __future__ import annotations

from typing import Any

TOTAL = {"entry": "total", "tests": [[[[1, 2, 3]], 6], [[[]], 0], [[[-5, 5, 7]], 7]]}
SQUARES = {"entry": "squares", "tests": [[[3], [1, 4, 9]], [[0], []], [[5], [1, 4, 9, 16, 25]]]}
MEAN = {"entry": "mean", "tests": [[[[1, 2]], 1.5], [[[2, 4, 6]], 4.0]]}
TWICE = {"tests": [["4\n", "8"], ["0\n", "0"], ["-3\n", "-6"]]}
REVERSED = {"asserts": ["assert rev('abc') == 'cba'", "assert rev('') == ''", "assert rev('ab') == 'ba'"]}
CLOSE = {"asserts": ["assert math.isclose(root(2.0), 1.41421356, rel_tol=1e-6)", "assert abs(root(9.0) - 3) < 1e-6"]}
LOOP = {
    "entry_point": "same",
    "test": "def check(candidate):\n    import random\n    for _ in range(9):\n        x = random.randint(0, 10**9)\n"
    "        assert candidate([x]) == [x], 'no'\n    try:\n        candidate(None)\n    except TypeError:\n"
    "        pass\n    else:\n        assert False\n",
}
SAME = "def same(x):\n    if x is None:\n        raise TypeError('none')\n    return list(x)\n"

Case = tuple[str, dict[str, Any], str, bool]

FUNCTIONS: list[Case] = [
    ("alias of a built-in", TOTAL, "total = sum", True),
    ("lambda", TOTAL, "total = lambda xs: sum(xs)", True),
    ("callable object", TOTAL, "class T:\n    def __call__(self, xs):\n        return sum(xs)\ntotal = T()", True),
    ("defined by exec", TOTAL, "exec('def total(xs): return sum(xs)')", True),
    ("main guard is not entered", TOTAL, "def total(xs):\n    return sum(xs)\nif __name__ == '__main__':\n"
     "    1 / 0", True),
    ("encoding declaration", TOTAL, "# -*- coding: utf-16 -*-\ndef total(xs):\n    return sum(xs)", True),
    ("CR LF source", TOTAL, "def total(xs):\r\n    return sum(xs)\r\n", True),
    ("future import", TOTAL, "from __future__ import annotations\ndef total(xs: Never) -> No:\n"
     "    return sum(xs)", True),
    ("deep recursion", TOTAL, "import sys\nsys.setrecursionlimit(9000)\ndef g(n):\n    return n and 1 + g(n - 1)\n"
     "def total(xs):\n    return sum(xs) + g(5000) - 5000", True),
    ("prints on the way", TOTAL, "def total(xs):\n    print('working', xs)\n    return sum(xs)", True),
    ("raises when collected", TOTAL, "class D:\n    def __del__(self):\n        raise ValueError\n"
     "def total(xs):\n    D()\n    return sum(xs)", True),
    ("fenced among prose", TOTAL, "Sure.\n```python\ndef total(xs):\n    return sum(xs)\n```\nIt adds.", True),
    ("fenced in reasoning only", TOTAL, "<think>\n```python\ndef total(xs):\n    return sum(xs)\n```\n</think>\n"
     "Done.", False),
    ("right block, then a wrong one", TOTAL, "```python\ndef total(xs):\n    return sum(xs)\n```\nBetter:\n"
     "```python\ndef total(xs):\n    return 6\n```", False),
    ("claims to be an int", TOTAL, "class I:\n    @property\n    def __class__(self):\n        return int\n"
     "    def __eq__(self, o):\n        return True\ndef total(xs):\n    return I()", False),
    ("subclass of int", TOTAL, "class I(int):\n    def __eq__(self, o):\n        return True\n"
     "    __hash__ = int.__hash__\n"
     "def total(xs):\n    return I(sum(xs))", False),
    ("hides in a list", SQUARES, "class I(int):\n    def __eq__(self, o):\n        return True\n"
     "    __hash__ = int.__hash__\n"
     "def squares(n):\n    return [I(i * i) for i in range(1, n + 1)]", False),
    ("list that pretends its length", SQUARES, "class L(list):\n    def __eq__(self, o):\n        return True\n"
     "def squares(n):\n    return L()", False),
    ("patched type", TOTAL, "import builtins\nbuiltins.type = lambda *a: int\nbuiltins.isinstance = lambda *a: True\n"
     "def total(xs):\n    return object()", False),
    ("patched json and pickle", TOTAL, "import json, pickle\njson.dumps = pickle.dumps = lambda *a, **k: b'6'\n"
     "class R:\n    def __reduce__(self):\n        return (int, (6,))\ndef total(xs):\n    return R()", False),
    ("looks up what is expected", TOTAL, "import sys\ndef total(xs):\n"
     "    for name, module in list(sys.modules.items()):\n"
     "        for key in dir(module):\n            if key in ('expected', 'tests', 'TESTS'):\n"
     "                return getattr(module, key)[0][1]\n    return None", False),
    ("reads the process table", TOTAL, "import glob\ndef total(xs):\n    out = ''\n"
     "    for p in glob.glob('/proc/*/*'):\n"
     "        try:\n            out += open(p).read(4000)\n        except Exception:\n            pass\n"
     "    return 6 if 'expected' in out else None", False),
    ("traces its caller", TOTAL, "import sys\ndef tracer(frame, event, arg):\n    frame.f_trace = tracer\n"
     "    return tracer\n"
     "sys.settrace(tracer)\nsys.setprofile(lambda *a: None)\ndef total(xs):\n    return -1", False),
    ("keeps count in a file", TOTAL, "import os\ndef total(xs):\n    for d in ('/tmp', '/dev/shm', '/var/tmp', '.'):\n"
     "        try:\n            with open(d + '/count', 'a+') as f:\n                f.write('x')\n"
     "                return [6, 0, 7][f.tell() - 1]\n"
     "        except OSError:\n            pass\n    return None", False),
    ("exits while the call runs", TOTAL, "import os\ndef total(xs):\n    os._exit(0)", False),
    ("replaces the exit", TOTAL, "import os, sys\nos._exit = sys.exit = lambda *a: None\ndef total(xs):\n"
     "    raise SystemExit(0)", False),
    ("raises what nobody catches", TOTAL, "class E(BaseException):\n    pass\ndef total(xs):\n    raise E", False),
    ("raises what cannot be shown", TOTAL, "class E(Exception):\n    def __str__(self):\n        while True: pass\n"
     "def total(xs):\n    raise E", False),
    ("crashes the interpreter", TOTAL, "import ctypes\ndef total(xs):\n    return ctypes.string_at(0)", False),
    ("kills its parent", TOTAL, "import os, signal\ndef total(xs):\n    os.kill(os.getppid(), signal.SIGKILL)\n"
     "    os.kill(-1, signal.SIGKILL)\n    return 6", False),
    ("coroutine", TOTAL, "async def total(xs):\n    return sum(xs)", False),
    ("endless generator", SQUARES, "import itertools\ndef squares(n):\n    return itertools.count()", False),
    ("map object", SQUARES, "def squares(n):\n    return map(lambda i: i * i, range(1, n + 1))", False),
    ("tuple for a list", SQUARES, "def squares(n):\n    return tuple(i * i for i in range(1, n + 1))", False),
    ("float for an int", TOTAL, "def total(xs):\n    return float(sum(xs))", False),
    ("text for an int", TOTAL, "def total(xs):\n    return str(sum(xs))", False),
    ("bool for an int", {"entry": "one", "tests": [[[], 1]]}, "def one():\n    return True", False),
    ("int for a bool", {"entry": "yes", "tests": [[[], True]]}, "def yes():\n    return 1", False),
    ("list inside itself", SQUARES, "def squares(n):\n    x = [1]\n    x.append(x)\n    return x", False),
    ("nested too deeply", SQUARES, "def squares(n):\n    x = []\n    for _ in range(10**5):\n        x = [x]\n"
     "    return x", False),
    ("keys that collide", {"entry": "f", "tests": [[[], {}]]}, "def f():\n"
     "    return {i * (2**61 - 1): 0 for i in range(30000)}", False),
    ("huge integer", TOTAL, "def total(xs):\n    return 10 ** 70000", False),
    ("tolerance by a large value", MEAN, "def mean(xs):\n    return 1e308 * 10 - 1e308 * 10", False),
    ("complex for a float", MEAN, "def mean(xs):\n    return complex(sum(xs) / len(xs))", False),
    ("defined only inside a class", TOTAL, "class A:\n    def total(self, xs):\n        return sum(xs)", False),
    ("the names of the judge's own wrappers", {**TOTAL, "entry": "S().total"}, "def posttrain_entry__(*a):\n"
     "    return 6\n"
     "class S:\n    def total(self, xs):\n        return None", False),
]  # fmt: skip

OUTPUTS: list[Case] = [
    ("main guard", TWICE, "def main():\n    print(int(input()) * 2)\nif __name__ == '__main__':\n    main()", True),
    ("printed at exit", TWICE, "import atexit\natexit.register(print, int(input()) * 2)", True),
    ("printed by a thread", TWICE, "import threading\n"
     "threading.Thread(target=lambda: print(int(input()) * 2)).start()", True),
    ("written to the descriptor", TWICE, "import os\nos.write(1, b'%d' % (int(os.read(0, 99)) * 2))", True),
    ("ended by exit", TWICE, "print(int(input()) * 2)\nexit()", True),
    ("ended by sys.exit(0)", TWICE, "import sys\nprint(int(sys.stdin.readline()) * 2)\nsys.exit(0)", True),
    ("reads bytes", TWICE, "import sys\nprint(int(sys.stdin.buffer.read()) * 2)", True),
    ("spaces at the end of lines", TWICE, "print(int(input()) * 2, end=' \\t \\n \\n\\n')", True),
    ("raises after the right line", TWICE, "print(int(input()) * 2)\n1 / 0", False),
    ("fails after the right line", TWICE, "import sys\nprint(int(input()) * 2)\nsys.exit(3)", False),
    ("exits before it prints", TWICE, "import sys\nsys.exit(0)\nprint(int(input()) * 2)", False),
    ("prints into memory", TWICE, "import io, sys\nsys.stdout = io.StringIO()\nprint(int(input()) * 2)", False),
    ("prints to standard error", TWICE, "import sys\nprint(int(input()) * 2, file=sys.stderr)", False),
    ("NUL after the answer", TWICE, "print(int(input()) * 2, end='\\0')", False),
    ("lone surrogate", TWICE, "import sys\nsys.stdout.reconfigure(errors='surrogatepass')\nprint('\\ud800')", False),
    ("answer with words", TWICE, "print('The answer is', int(input()) * 2)", False),
    ("every answer", TWICE, "for n in range(-10, 10):\n    print(n)", False),
    ("prompt of input", TWICE, "print(int(input('n? ')) * 2)", False),
    ("spaces before the answer", TWICE, "print('', int(input()) * 2)", False),
    ("float for an integer", TWICE, "print(float(input()) * 2)", False),
    ("endless output", TWICE, "while True:\n    print(int(8))", False),
    ("waits for more input", TWICE, "input()\nwhile True:\n    input()", False),
    ("thread that never ends", TWICE, "import threading, time\nprint(0)\n"
     "threading.Thread(target=lambda: time.sleep(10**6)).start()", False),
    ("prose", TWICE, "I would read n and print n * 2.", False),
    ("function instead of a program", TWICE, "def solve(n):\n    return n * 2", False),
]  # fmt: skip

ASSERTIONS: list[Case] = [
    ("right", REVERSED, "def rev(s):\n    return s[::-1]", True),
    ("right root", CLOSE, "def root(x):\n    return x ** 0.5", True),
    ("lazy", REVERSED, "def rev(s):\n    return reversed(s)", False),
    ("assertions patched away", REVERSED, "import builtins\nclass A(Exception):\n    def __new__(cls, *a):\n"
     "        raise SystemExit(0)\n"
     "builtins.AssertionError = A\ndef rev(s):\n    return s", False),
    ("text that equals everything", REVERSED, "class S(str):\n    __eq__ = lambda a, b: True\n"
     "    __ne__ = lambda a, b: False\n"
     "    __hash__ = str.__hash__\ndef rev(s):\n    return S(s)", False),
    ("isclose patched", CLOSE, "import math\nmath.isclose = lambda *a, **k: True\ndef root(x):\n    return x", False),
    ("abs patched", CLOSE, "import builtins\nbuiltins.abs = lambda x: 0\ndef root(x):\n    return x", False),
    ("NaN", CLOSE, "def root(x):\n    return float('nan')", False),
    ("subtraction of its own", CLOSE, "class Z(float):\n    __sub__ = __rsub__ = lambda a, b: 0.0\n"
     "def root(x):\n    return Z(1)", False),
    ("skips", REVERSED, "import unittest\ndef rev(s):\n    raise unittest.SkipTest", False),
    ("right in a loop", LOOP, SAME, True),
    ("wrong in a loop", LOOP, SAME.replace("list(x)", "[0]"), False),
    ("never raises", LOOP, "def same(x):\n    return x", False),
    ("raises another", LOOP, SAME.replace("TypeError", "ValueError"), False),
    ("raises a class of its own", LOOP, "class E(TypeError):\n    pass\n"
     "" + SAME.replace("raise TypeError", "raise E"), True),
    ("random seeded by the program", LOOP, "import random\nrandom.randint = lambda a, b: 0\nrandom.seed(0)\n"
     + SAME.replace("list(x)", "[0]"), False),
    ("exits in a loop", LOOP, SAME + "import sys\nsys.exit(0)", False),
    ("answers as the judge's wrapper would", LOOP, "def same(x):\n    return ['returned', x]", False),
    ("the wrapper is replaced", LOOP, "import gc\ndef same(x):\n    for o in gc.get_objects():\n"
     "        if callable(o) and getattr(o, '__name__', '') == 'posttrain_answer__':\n"
     "            o.__code__ = (lambda *a: 'passed').__code__\n    return [0]", False),
    ("defines what the tests define", LOOP, SAME.replace("list(x)", "[0]") + "def check(candidate):\n    pass\n"
     "def run_tests(job):\n    return {'state': 'passed', 'calls': [], 'num_calls': 1}", False),
    ("no such function in a loop", LOOP, "def other(x):\n    raise TypeError", False),
    ("hangs in a loop", LOOP, "def same(x):\n    while True: pass", False),
]  # fmt: skip

CASES = [*FUNCTIONS, *OUTPUTS, *ASSERTIONS]
