"""Each problem judged by its own scorer: what a stage with problems of several kinds is rewarded by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.core.protocols import Scorer
from posttrain.core.records import Completion, Outcome, Problem


class RoutedScorer:
    """Scores each item by the scorer of its problem (`core.protocols.Scorer`).

    Values are taken as they come: scorers whose values lie in different ranges weigh differently wherever rewards of
    different problems meet (`baseline: batch_mean`).

    Args:
        scorer_of: The scorer of each problem, by its id.
    """

    name = "routed"

    def __init__(self, scorer_of: Mapping[str, Scorer]) -> None:
        self._scorer_of = scorer_of

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order; each scorer is called once, with all of its items.

        Raises:
            KeyError: A problem has no scorer.
        """
        places: dict[int, list[int]] = {}
        scorers: dict[int, Scorer] = {}
        for place, (problem, _) in enumerate(items):
            scorer = self._scorer_of[problem.problem_id]
            scorers[id(scorer)] = scorer
            places.setdefault(id(scorer), []).append(place)
        outcomes: dict[int, Outcome] = {}
        for key, own in places.items():
            outcomes |= dict(zip(own, scorers[key].score([items[place] for place in own]), strict=True))
        return [outcomes[place] for place in range(len(items))]
