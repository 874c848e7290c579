"""Majority vote over k of N samples: the chance of each sample to be the one that is taken, exactly, for all k at once.

The answer that most of k samples give wins; ties are a fair draw, which of the first sample of each comes first. A
sample that gives no answer does not vote; where none of the k votes, one of them is taken.

An answer wins with m votes where no other has more. Answers are taken in one after the other: of `s` samples that are
drawn from those taken in, `j` of the next one's `c` are a hypergeometric draw, so that every number is a probability,
whatever N is.

Source: Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning in Language Models" (arXiv 2203.11171);
the recursion is this project's.

Shape letters: N samples of a problem, K sizes of what is chosen from, A answers, D different numbers of samples that an
answer has, S samples drawn, J of one answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from posttrain.statistics.clusters import Floats


def weigh_majority(answers_N: Sequence[str | None], most: int) -> Floats:
    """Return the chance of each sample to be taken by majority vote from a random subset of k, for k from 1 to `most`.

    Weights times any values of the samples are the unbiased estimate of what the vote of k is expected to have of them.

    Args:
        answers_N: What each sample votes for; None does not vote.
        most: The largest k, 1 to N.

    Returns:
        Weights [K, N]; each row sums to 1.

    Raises:
        ValueError: The numbers do not fit.
    """
    if not 1 <= most <= len(answers_N):
        raise ValueError(f"the vote of {most} among {len(answers_N)} samples: k lies between 1 and the number drawn")
    counts = Counter(answer for answer in answers_N if answer is not None)
    num_silent = len(answers_N) - sum(counts.values())
    classes = sorted(set(counts.values()))
    sizes = Counter(counts.values())
    won_KD = np.zeros((most, len(classes)))
    for votes in range(1, min(most, max(classes, default=0)) + 1):
        won_KD += _win_with(votes, sorted(counts.values()), num_silent, classes, most)
    share = {size: won_KD[:, place] / sizes[size] / size for place, size in enumerate(classes)}
    silent_K = np.maximum(0.0, 1.0 - won_KD.sum(axis=1)) / max(1, num_silent)
    return np.stack([silent_K if answer is None else share[counts[answer]] for answer in answers_N], axis=1)


def estimate_majority_kl(
    answers_N: Sequence[str | None], ks: Sequence[int], generator: np.random.Generator, *, num_draws: int = 2000
) -> Floats:
    """Return the measured KL in nats of the vote of each k from the sampler on one problem.

    The vote decides between answers alone, and texts of one answer stand to one another as they were drawn, so this is
    the KL between the answers' chances to win and to be drawn. Samples that give no answer are one answer more. Chances
    to be drawn are the observed shares, chances to win those in `num_draws` votes of k drawn from them. No unbiased
    estimate: shares are estimated, and counted votes add about (answers - 1) / (2 num_draws).

    Args:
        answers_N: What each sample votes for; None does not vote.
        ks: Votes, each at least 1.
        generator: Draws the votes.
        num_draws: Votes that are drawn for each k.

    Raises:
        ValueError: There is no sample, or a k below 1.
    """
    if not answers_N or any(k < 1 for k in ks):
        raise ValueError(f"the votes of {list(ks)} among {len(answers_N)} samples")
    counts = Counter(answer for answer in answers_N if answer is not None)
    num_silent = len(answers_N) - sum(counts.values())
    shares_A = np.array([num_silent, *counts.values()]) / len(answers_N)
    found = []
    for k in ks:
        if k == 1:
            found.append(0.0)
            continue
        votes_DA = generator.multinomial(k, shares_A, size=num_draws).astype(np.float64)
        # Silent samples are taken where there is nothing else: half a vote, where they have any.
        votes_DA[:, 0] = np.minimum(votes_DA[:, 0], 0.5)
        leads = votes_DA == votes_DA.max(axis=1, keepdims=True)
        won_A = (leads / leads.sum(axis=1, keepdims=True)).mean(axis=0)
        held = won_A > 0
        found.append(max(0.0, float(np.sum(won_A[held] * np.log(won_A[held] / shares_A[held])))))
    return np.array(found)


def _win_with(votes: int, counts_A: Sequence[int], num_silent: int, classes: Sequence[int], most: int) -> Floats:
    """Return, for each k, the chance that an answer of each class wins with exactly so many votes, as [K, D]."""
    most_tied = most // votes
    seen = num_silent + sum(count for count in counts_A if count < votes)  # none of these can have as many
    # Chances of (samples of those taken in, answers that have the votes), and the expected winners of each class.
    chances = np.zeros((most + 1, most_tied + 1))
    chances[:, 0] = np.arange(most + 1) <= seen
    winners = np.zeros((most + 1, most_tied + 1, len(classes)))
    for count in (count for count in counts_A if count >= votes):
        shares_JS = _draw_shares(count, seen, votes, most)
        next_chances, next_winners = np.zeros_like(chances), np.zeros_like(winners)
        for j in range(votes):
            share_S = shares_JS[j, j:, None]
            next_chances[j:] += share_S * chances[: most + 1 - j]
            next_winners[j:] += share_S[..., None] * winners[: most + 1 - j]
        share_S = shares_JS[votes, votes:, None]
        kept = chances[: most + 1 - votes, :-1]
        next_chances[votes:, 1:] += share_S * kept
        next_winners[votes:, 1:] += share_S[..., None] * winners[: most + 1 - votes, :-1]
        next_winners[votes:, 1:, classes.index(count)] += share_S * kept
        chances, winners, seen = next_chances, next_winners, seen + count
    tied = np.maximum(1, np.arange(most_tied + 1))
    found: Floats = (winners / tied[:, None]).sum(axis=1)[1:]
    return found


def _draw_shares(count: int, seen: int, votes: int, most: int) -> Floats:
    """Return the chance that j of s samples are one answer's, for j up to its votes and s up to the most, as [J, S].

    C(count, j) C(seen, s - j) / C(seen + count, s).
    """
    from scipy.special import gammaln

    def log_choose(total: int, drawn: Floats) -> Floats:
        found: Floats = gammaln(total + 1.0) - gammaln(drawn + 1.0) - gammaln(total - drawn + 1.0)
        return found

    j_J1, s_1S = np.arange(votes + 1.0)[:, None], np.arange(most + 1.0)[None, :]
    rest = s_1S - j_J1
    is_possible = (rest >= 0) & (rest <= seen)
    bounded = np.clip(rest, 0, seen)
    logs = log_choose(count, j_J1) + log_choose(seen, bounded) - log_choose(seen + count, bounded + j_J1)
    return np.where(is_possible, np.exp(logs), 0.0)
