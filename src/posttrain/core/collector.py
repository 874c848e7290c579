"""The garbage collector, out of the way while large libraries are imported.

Importing torch and transformers makes about a million objects that live as long as the process. The
collector walks through all of them again whenever their number has grown by a quarter: half a second of
a start, and nothing to collect.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """Import within this: nothing is collected meanwhile, and what was made counts as long-lived afterwards.

    Garbage in cycles waits for the next full collection. A collector that is switched off stays so.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # Every object there is goes to the oldest generation, without a walk through any of them.
            gc.freeze()
            gc.unfreeze()
        gc.enable()
