"""Attacks that use things up, and attacks on the record of a result. The standard library only."""

# ruff: noqa: E501 - a line of the list is a line of an attack
from __future__ import annotations

from tests.sandbox.attacks import LIMITED, Attack

CLONED_THREADS = """
import ctypes, mmap, platform
# Threads by raw clone, all on one stack page, which wait for ever: they use up no address space.
assert platform.machine() == "x86_64"
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex("b838000000" "0f05" "4885c0" "7401c3" "b822000000" "0f05" "ebf7"))  # clone; in a thread: pause
stack = mmap.mmap(-1, 1 << 16)
start = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 5)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + 32768
word = ctypes.c_long(0)
count = sum(start(0x3D0F00, top, ctypes.addressof(word), ctypes.addressof(word), ctypes.addressof(word)) > 0
            for _ in range(20000))
print("open" if count > 2000 else "bounded", count)
"""

EXHAUSTION = [
    Attack("memory", "x = []\nwhile True: x.append(bytearray(1 << 20))", ("memory",)),
    Attack("memory at once", "x = 'a' * (1 << 40)", ("memory",)),
    Attack("memory in small pieces", "x = []\nwhile True: x.append([])", ("memory", "timeout")),
    Attack("memory in a chain", "x = []\nwhile True: x = [x]", ("memory", "timeout")),
    Attack("memory in a table", "x = {}\nwhile True: x[len(x)] = str(x)[:9]", ("memory", "timeout")),
    Attack("shared memory", "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 1 << 24))", ("raised", "memory")),
    Attack("memory in C", "import ctypes\nmalloc = ctypes.CDLL(None).malloc\nmalloc.restype = ctypes.c_void_p\n"
           "while True:\n    place = malloc(1 << 20)\n    assert place\n    ctypes.memset(place, 1, 1 << 20)", ("raised", "memory")),
    Attack("thread bomb", "import threading\nthreading.stack_size(32768)\nrelease = threading.Event()\nfor _ in range(5000):\n"
           "    threading.Thread(target=release.wait, daemon=True).start()\nprint('open')", ("raised",), is_open_without_sandbox=False),
    Attack("threads by raw clone", CLONED_THREADS, ("ok", "crash", "timeout"), is_open_without_sandbox=False),
    Attack("descriptors", "import os\nfor _ in range(500): os.pipe()\nprint('open')", ("raised",)),
    Attack("pipes", "import os\nwhile True:\n    r, w = os.pipe()\n    os.set_blocking(w, False)\n    os.write(w, bytes(65536))",
           ("raised",)),
    Attack("output flood", "import os\nwhile True: os.write(1, b'z' * 65536)", ("output",)),
    Attack("output flood by print", "while True: print('x')", ("output",)),
    Attack("error flood", "import sys\nwhile True: sys.stderr.write('e' * 65536)", ("timeout",)),
    Attack("spin", "while True: pass", ("timeout",)),
    Attack("spin in a regular expression", "import re\nre.match('(x+x+)+y', 'x' * 60)", ("timeout",)),
    Attack("spin in a product", "5 ** (5 ** 12)", ("timeout", "memory")),
    Attack("spin in threads", "import threading\ndef spin():\n    while True: pass\n"
           "for _ in range(20): threading.Thread(target=spin).start()", ("timeout", "raised")),
    Attack("spin that swallows everything", "while True:\n    try:\n        while True: pass\n    except BaseException: continue",
           ("timeout",)),
    Attack("ignored signals", "import signal\nfor number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n"
           "    except (OSError, ValueError): pass\nwhile True: pass", ("timeout",)),
    Attack("sleep", "import time\ntime.sleep(10**6)", ("timeout",)),
    Attack("sleep without timers", "import signal, time\nsignal.signal(signal.SIGALRM, lambda *a: None)\n"
           "signal.setitimer(signal.ITIMER_REAL, 0)\ntime.sleep(10**6)", ("timeout",)),
    Attack("wait for ever", "import threading\nthreading.Lock().acquire()\nthreading.Event().wait()", ("timeout",)),
    Attack("stop", "import os, signal, time\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(10**6)", ("timeout",)),
    Attack("end of its own", "import os, signal, time\nos.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(10**6)",
           ("crash", "timeout"), is_open_without_sandbox=False),
    Attack("recursion", "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)\nf(1)", ("crash", "timeout", "memory")),
    Attack("recursion in C", "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
           ("crash", "timeout", "memory", "raised")),
    Attack("parser stack", "eval('(' * 10**5 + ')' * 10**5)", ("crash", "timeout", "memory", "raised")),
    Attack("segmentation fault", "import ctypes\nctypes.string_at(0)", ("crash",)),
    Attack("abort", "import os\nos.abort()", ("crash",)),
]  # fmt: skip

HUNT = """
import sys
def f():
    frame, found = sys._getframe(), None
    while frame:
        for value in list(frame.f_locals.values()):
            owner = getattr(value, "__self__", None)
            if type(owner).__name__ == "RecordArea":
                found = owner
        frame = frame.f_back
"""
RECORD = [
    Attack("exit before the call", "import sys\nsys.exit(0)\ndef f(): pass", ("crash",), "f"),
    Attack("hard exit before the call", "import os\nos._exit(0)\ndef f(): pass", ("crash",), "f"),
    Attack("exit in the call", "def f(): raise SystemExit(0)", ("crash",), "f"),
    Attack("exit of a thread", "import os, threading, time\n"
           "threading.Thread(target=lambda: (time.sleep(0.01), os._exit(0)), daemon=True).start()\ndef f(): time.sleep(5)",
           ("crash",), "f"),
    Attack("huge result", "def f(): return 'a' * (1 << 26)", ("output", "memory"), "f"),
    Attack("many results", "def f(): return [[] for _ in range(10**6)]", ("bad_record", "output", "timeout"), "f"),
    Attack("deep result", "def f():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x", ("bad_record",), "f"),
    Attack("result inside itself", "def f():\n    x = []\n    x.append(x)\n    return x", ("bad_record",), "f"),
    Attack("result that doubles", "def f():\n    x = [1]\n    for _ in range(60): x = [x, x]\n    return x",
           ("bad_record", "output", "timeout"), "f"),
    Attack("huge integer", "def f(): return 1 << (1 << 22)", ("bad_record",), "f"),
    Attack("an object", "class R:\n    __eq__ = lambda a, b: True\ndef f(): return R()", ("bad_record",), "f"),
    Attack("a subclass", "class S(str):\n    __eq__ = lambda a, b: True\n    __hash__ = str.__hash__\ndef f(): return [S('a')]",
           ("bad_record",), "f"),
    Attack("a lying class", "class R:\n    __class__ = int\ndef f(): return R()", ("bad_record",), "f"),
    Attack("a hostile metaclass", "class M(type):\n    __hash__ = None\n    __name__ = property(lambda s: 1 / 0)\n"
           "    __eq__ = lambda a, b: True\nclass R(metaclass=M): pass\ndef f(): return R()", ("bad_record",), "f"),
    Attack("a generator", "def f(): yield 1", ("bad_record",), "f"),
    Attack("an exception that cannot be shown", "class E(BaseException):\n    __str__ = lambda s: 1 / 0\ndef f(): raise E", ("raised",),
           "f"),
    Attack("writing to every descriptor", "import os\nfor number in range(3, 1024):\n    try: os.write(number, b'open' * 100)\n"
           "    except OSError: continue\n    print('open', number)", is_open_without_sandbox=False),
    Attack("garbage for a record", HUNT + "    import ctypes\n    ctypes.memmove(found.address, b'\\x20\\0\\0\\0' + b'l' * 32, 36)\n"
           "    import os\n    os._exit(0)", ("bad_record",), "f"),
    Attack("a record of false length", HUNT + "    import ctypes\n    ctypes.memmove(found.address, b'\\xff' * 64, 64)\n"
           "    import os\n    os._exit(0)", ("crash", "bad_record"), "f"),
    Attack("a record that fails the sandbox", HUNT + "    found.leave('sandbox_error', 'x')\n    import os\n    os._exit(0)",
           ("bad_record",), "f"),
    Attack("a table of equal hashes", HUNT + "    keys = [number * (2**61 - 1) for number in range(5000)]\n"
           "    plain = sys.modules['posttrain.sandbox.plain_data']\n    parts = b''.join(plain._encode_int(key) for key in keys)\n"
           "    content = b't\\x02\\0\\0\\0s\\x02\\0\\0\\0okS' + len(keys).to_bytes(4, 'little') + parts\n    import ctypes, os\n"
           "    ctypes.memmove(found.address + 4, content, len(content))\n"
           "    ctypes.memmove(found.address, len(content).to_bytes(4, 'little'), 4)\n    os._exit(0)", ("bad_record",), "f"),
]  # fmt: skip
assert all(set(attack.statuses) & {*LIMITED, "crash", "raised", "ok"} for attack in EXHAUSTION)
