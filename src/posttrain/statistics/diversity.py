"""How different the samples of one problem are: answers, n-grams, likeness to one another, entropy per token.

Whatever counts distinct things grows with the number of samples. So counts are given for m samples of the n that were
drawn, as the exact mean over all subsets of m, and policies of which different numbers were drawn compare. Shape
letters: K samples of one problem.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from posttrain.statistics.pass_at_k import compute_pass_at_k

BLEU_ORDER = 4


def compute_expected_distinct(groups_K: Sequence[Sequence[Hashable]], num_samples: int) -> float:
    """Return how many different things `num_samples` of the K samples hold on average.

    A thing that k of the K samples hold is among m of them with probability `1 - C(K - k, m) / C(K, m)`: pass@m with k
    right ones. The sum over things is the mean over all subsets of m.

    Args:
        groups_K: What each sample holds: its answer alone, or all of its n-grams.
        num_samples: m, 1 to K.

    Raises:
        ValueError: m is out of range.

    Source: Hurlbert, Ecology 52 (1971), p. 577 (rarefaction).
    """
    if not 1 <= num_samples <= len(groups_K):
        raise ValueError(f"{num_samples} of {len(groups_K)} samples")
    holders = Counter(thing for group in groups_K for thing in set(group))
    return math.fsum(compute_pass_at_k(len(groups_K), count, num_samples) for count in holders.values())


def compute_distinct_n(
    tokens_K: Sequence[Sequence[Hashable]], n: int, *, num_samples: int | None = None
) -> float | None:
    """Return distinct-n: different n-grams by n-grams, in (0, 1]; None where no sample has n tokens.

    Args:
        tokens_K: The tokens of each sample.
        n: Tokens of an n-gram, at least 1.
        num_samples: m: the expected number of different n-grams among m samples by their expected number of n-grams;
            None: all K, which is the published figure.

    Raises:
        ValueError: n or m is out of range.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models" (arXiv
    1510.03055), section 5.2. Longer samples have a lower distinct-n whatever they say.
    """
    if n < 1:
        raise ValueError(f"n-grams of {n} tokens")
    chosen = len(tokens_K) if num_samples is None else num_samples
    grams_K = [_list_grams(tokens, n) for tokens in tokens_K]
    distinct = compute_expected_distinct(grams_K, chosen)
    total = sum(map(len, grams_K)) * chosen / len(grams_K)
    return distinct / total if total else None


def compute_bleu(
    tokens: Sequence[Hashable], references: Sequence[Sequence[Hashable]], *, max_order: int = BLEU_ORDER
) -> float:
    """Return sentence BLEU of tokens against references, in [0, 1].

    The geometric mean of clipped n-gram precisions up to `max_order`, times the brevity penalty
    `exp(min(0, 1 - r / c))`, c the tokens and r those of the reference of nearest length (the shorter of two as near).
    Smoothing: for n above 1 the precision is `(matches + 1) / (n-grams + 1)`; a text of fewer than `max_order` tokens
    is judged by the n-grams that it has. Without a token in common it is 0.

    Args:
        tokens: At least one, else the result is 0.
        references: At least one text.
        max_order: Longest n-gram, at least 1.

    Raises:
        ValueError: There is no reference, or the order is below 1.

    Source: Papineni et al., ACL 2002, p. 311; smoothing: Lin and Och, COLING 2004, p. 501, section 3.
    """
    if not references or max_order < 1:
        raise ValueError(f"BLEU up to {max_order}-grams against {len(references)} references")
    if not tokens:
        return 0.0
    logs = []
    for n in range(1, min(max_order, len(tokens)) + 1):
        grams = Counter(_list_grams(tokens, n))
        allowed = Counter[tuple[Hashable, ...]]()
        for reference in references:
            allowed |= Counter(_list_grams(reference, n))
        matches, total = (grams & allowed).total(), grams.total()
        if n == 1 and matches == 0:
            return 0.0
        logs.append(math.log(matches / total if n == 1 else (matches + 1) / (total + 1)))
    nearest = min((abs(len(one) - len(tokens)), len(one)) for one in references)[1]
    return math.exp(min(0.0, 1 - nearest / len(tokens)) + math.fsum(logs) / len(logs))


def compute_self_bleu(tokens_K: Sequence[Sequence[Hashable]]) -> float:
    """Return self-BLEU: the mean BLEU-4 of each sample with all others as references, in [0, 1]; 1: all are alike.

    It rises with the number of samples, as more references are matched more often: compare equal numbers. Samples
    without a token are alike (1 where there are several, else 0), so that saying nothing is not being different.

    Args:
        tokens_K: The tokens of each sample, K >= 2.

    Raises:
        ValueError: There is one sample, or none.

    Source: Zhu et al. 2018, "Texygen" (arXiv 1802.01886), section 3.2; `compute_bleu` for the smoothing.
    """
    if len(tokens_K) < 2:
        raise ValueError(f"self-BLEU of {len(tokens_K)} samples")
    told = [tokens for tokens in tokens_K if tokens]
    scores = [
        compute_bleu(tokens, [other for place, other in enumerate(told) if place != index])
        for index, tokens in enumerate(told)
        if len(told) > 1
    ]
    num_empty = len(tokens_K) - len(told)
    return math.fsum([*scores, num_empty if num_empty > 1 else 0]) / len(tokens_K)


def compute_collision_diversity(answers_K: Sequence[Hashable]) -> float:
    """Return the unbiased estimate of `E[1 - sum of p²]`: how often two samples differ, in [0, 1].

    `1 - sum of c (c - 1) / (K (K - 1))` with c the count of each answer: the share of pairs that differ.

    Args:
        answers_K: The answer of each sample, K >= 2.

    Raises:
        ValueError: There is one sample, or none.

    Source: Simpson, Nature 163 (1949), p. 688.
    """
    size = len(answers_K)
    if size < 2:
        raise ValueError(f"whether {size} samples differ")
    return 1 - sum(count * (count - 1) for count in Counter(answers_K).values()) / (size * (size - 1))


def compute_token_entropy(nats_K: Sequence[float], tokens_K: Sequence[float]) -> float:
    """Return the entropy by token, in nats: minus the log-likelihood of all samples by their tokens.

    An unbiased estimate of numerator and denominator where samples were drawn at temperature 1 from the full
    distribution; at a lower temperature it is the surprise of likelier texts, and lower.

    Args:
        nats_K: Minus the log-likelihood of each sample.
        tokens_K: Its tokens, the stop token included.

    Raises:
        ValueError: There is no token.
    """
    total = math.fsum(tokens_K)
    if total <= 0:
        raise ValueError("the entropy of no token")
    return math.fsum(nats_K) / total


def _list_grams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
