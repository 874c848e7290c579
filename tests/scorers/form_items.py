"""Items for scorers, and scoring one from a thread, a forked process and under a running event loop."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading

import numpy as np

from posttrain.core.records import Completion, Problem
from posttrain.scorers.calling import score_async


def build_item(text, columns=None, *, messages=(), finish_reason="stop", num_tokens=3, tools=None):
    ids = np.arange(num_tokens, dtype=np.int32)
    problem = Problem("row-1", list(messages), dict(columns or {}), tools)
    return problem, Completion("row-1", 0, ids, ids, text, finish_reason, "policy", 0)


def score_one(scorer, text, columns=None, **named):
    (outcome,) = scorer.score([build_item(text, columns, **named)])
    return outcome


def score_everywhere(scorer, items):
    """Return the outcomes from this thread, another thread, a forked process and an event loop."""
    results = [scorer.score(items)]
    thread = threading.Thread(target=lambda: results.append(scorer.score(items)))
    thread.start()
    thread.join()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(scorer.score(items)))
    child.start()
    results.append(receiver.recv())
    child.join()
    results.append(asyncio.run(score_async(scorer, items)))
    return results
