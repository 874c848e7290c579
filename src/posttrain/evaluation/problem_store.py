"""Problems that are read when they are asked for: a task's rows do not lie in memory.

`StoredProblems` writes them to a file that has no name (it is gone when the process is); `ProblemView` is some of
them, or all of them as a task shows them. In memory are their ids, their clusters, and where each begins.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import weakref
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from posttrain.core.durable import storage_errors
from posttrain.core.records import Problem

_WRITTEN_AT_ONCE = 1 << 18
"""Bytes."""


class _ReadSequence(Sequence[Problem]):
    """A sequence whose members are made when they are read."""

    ids: Sequence[str]
    clusters: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        if isinstance(index, slice):
            return [self._read(place) for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._read(index % len(self))

    @abstractmethod
    def _read(self, place: int) -> Problem:
        """Return the problem at a place, counted from 0."""


class StoredProblems(_ReadSequence):
    """Problems in a nameless file of the temporary folder; `ids` and `clusters` are in memory.

    Args:
        problems: Read once, and kept on disk.

    Raises:
        StorageError: The file cannot be written.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        ids: list[str] = []
        clusters: list[str] = []
        self._starts = array("q", [0])
        with storage_errors(Path(tempfile.gettempdir())):
            self._file = tempfile.TemporaryFile(buffering=_WRITTEN_AT_ONCE)  # noqa: SIM115 - closed with the problems
            weakref.finalize(self, self._file.close)
        for problem in problems:
            content = pickle.dumps(problem, protocol=pickle.HIGHEST_PROTOCOL)
            with storage_errors(Path(tempfile.gettempdir())):
                self._file.write(content)
            ids.append(problem.problem_id)
            clusters.append(sys.intern(problem.cluster_id))
            self._starts.append(self._starts[-1] + len(content))
        with storage_errors(Path(tempfile.gettempdir())):
            self._file.flush()
        self.ids, self.clusters = ids, clusters

    def _read(self, place: int) -> Problem:
        start, end = self._starts[place], self._starts[place + 1]
        content = os.pread(self._file.fileno(), end - start, start)
        problem: Problem = pickle.loads(content)  # noqa: S301 - written by this object into a file without a name
        return problem


@dataclass(frozen=True, slots=True)
class _Chosen(Sequence[str]):
    """The ids or clusters of some problems, held once."""

    ids: Sequence[str]
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self.ids[place] for place in self.places[index]]
        return self.ids[self.places[index]]


class ProblemView(_ReadSequence):
    """Some problems of others, as something shows them; nothing is copied.

    Args:
        problems: The others.
        places: Which of them, in order; None: all.
        show: What a problem becomes when it is read; None: what it is.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        places: Sequence[int] | None = None,
        show: Callable[[Problem], Problem] | None = None,
    ) -> None:
        self._problems, self._places, self._show = problems, places, show
        self.ids, self.clusters = list_ids(problems), list_clusters(problems)
        if places is not None:
            held = array("q", places)
            self.ids, self.clusters = _Chosen(self.ids, held), _Chosen(self.clusters, held)

    def _read(self, place: int) -> Problem:
        problem = self._problems[place if self._places is None else self._places[place]]
        return problem if self._show is None else self._show(problem)


def list_ids(problems: Sequence[Problem]) -> Sequence[str]:
    """Return the ids of problems, without reading those that are stored."""
    return problems.ids if isinstance(problems, _ReadSequence) else [problem.problem_id for problem in problems]


def list_clusters(problems: Sequence[Problem]) -> Sequence[str]:
    """Return the clusters of problems, "" of those without one, without reading those that are stored."""
    return problems.clusters if isinstance(problems, _ReadSequence) else [problem.cluster_id for problem in problems]
