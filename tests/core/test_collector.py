from __future__ import annotations

import gc
from typing import Any

import pytest

from posttrain.core.collector import paused_collector


class Node:
    """An object that can be part of a cycle."""


def test_nothing_is_collected_within_and_all_that_is_garbage_afterwards() -> None:
    generations: list[int] = []

    def note(phase: str, facts: dict[str, Any]) -> None:
        generations.append(facts["generation"])

    gc.callbacks.append(note)
    try:
        with paused_collector():
            nodes = [Node() for _ in range(100_000)]
            for node in nodes:
                node.other = node  # type: ignore[attr-defined]
            del nodes, node
            assert generations == []
    finally:
        gc.callbacks.remove(note)
    assert gc.isenabled() and gc.get_freeze_count() == 0
    assert gc.collect() >= 100_000


def test_what_was_made_within_is_looked_at_by_full_collections_only() -> None:
    with paused_collector():
        made = [Node()]
    assert any(found is made for found in gc.get_objects(generation=2))


def test_the_collector_is_left_as_it_was_found() -> None:
    gc.disable()
    try:
        with paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(ValueError, match="inner"), paused_collector(), paused_collector():
        raise ValueError("inner")
    assert gc.isenabled()


def test_what_somebody_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with paused_collector():
            pass
        assert gc.get_freeze_count() == frozen > 0
    finally:
        gc.unfreeze()
