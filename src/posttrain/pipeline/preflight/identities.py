"""What must hold before the first step, as arithmetic on log-probs: the same policy, whichever way it is run.

An identity is a function from what was measured at step 0 to what it found, or None where it does not apply. A stage's
type has its own list; an objective with a reference adds its own (a preference loss of ln 2, a divergence of 0, a ratio
of 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from posttrain.pipeline.preflight.findings import Figure

MEAN_NATS = {"float32": 1e-5, "bfloat16": 1e-2}
"""Most nats by which the mean log-prob of a token may differ."""
TOKEN_NATS = {"float32": 1e-4, "bfloat16": 1e-1}
"""Most nats by which a token's log-prob may differ, on average over the tokens: a mean may hide changes both ways.

Rounding alone gave at most 9e-6 (float32) and 4e-2 (bfloat16) on trained and random models of 2 to 24 layers, where
rows that see one another give 0.2 to 2.
"""
WORSE_THAN_UNIFORM_NATS = 2.0
"""Random weights of usual size are up to 1.7 nats worse than a uniform guess, a model that reads what is foreign to it
up to 3.3, and one whose token ids mean something else 6 and more."""
ORDER_NATS = 0.5
"""Least nats that the order of tokens saves a model which can read them, foreign or not: 1.0 and more on 700 tokens and
more, where it saves at most 0.1 if the ids mean something else."""


@dataclass(frozen=True, slots=True)
class StepZero:
    """What was measured of a policy before its first step, on the tokens of a few rows.

    Made by `step_zero.measure_step_zero`, read by the identities. A row's first token has no log-prob; N counts the
    others of all rows. `parent_N` are the log-probs of the policy that the stage starts from, None where it trains
    that policy's own weights. `adapter_start` says how its adapter began. `shuffled_N` are the log-probs of the same
    tokens in random order, measured where the first loss is suspicious (`is_suspicious`). `is_artifact` says that the
    policy was made by a stage, and so with the tokenizer that it has.
    """

    dtype: str
    vocabulary: int
    plain_N: npt.NDArray[np.float64]
    training_N: npt.NDArray[np.float64]
    is_trained_N: npt.NDArray[np.bool_]
    parent_N: npt.NDArray[np.float64] | None = None
    adapter_start: str = ""
    shuffled_N: npt.NDArray[np.float64] | None = None
    is_artifact: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """What became of one identity: whether it holds, what was found and expected, the cure, the figures."""

    holds: bool
    found: str
    expected: str = ""
    cure: str = ""
    figures: dict[str, Figure] = field(default_factory=dict)


IdentityCheck = Callable[[StepZero], Identity | None]


def check_finite(measured: StepZero) -> Identity | None:
    """Check that no log-prob is NaN or infinite."""
    bad = int((~np.isfinite(measured.plain_N)).sum())
    figures: dict[str, Figure] = {"tokens": len(measured.plain_N), "not_finite": bad}
    return Identity(
        not bad,
        f"{bad:,} of {len(measured.plain_N):,} log-probs of the policy are NaN or infinite",
        "finite log-probs of every token",
        "restore the weights from where they came from; where they overflow in bfloat16, set dtype: float32",
        figures,
    )


def check_training_path(measured: StepZero) -> Identity | None:
    """Check that packed rows and the kernels of training give the log-probs of each row alone."""
    return _compare(
        measured,
        measured.training_N,
        measured.plain_N,
        "training_path",
        "in training form (packed rows, fused layers) tokens get other log-probs than row by row",
        "set packing: off, or start with POSTTRAIN_COMPILE=0; please report the architecture's name",
    )


def check_adapter_start(measured: StepZero) -> Identity | None:
    """Check that a policy with a new, continued, stacked or merged adapter gives its parent's log-probs."""
    if measured.parent_N is None:
        return None
    return _compare(
        measured,
        measured.plain_N,
        measured.parent_N,
        "adapter_start",
        f"with its adapter ({measured.adapter_start}) the policy gives other log-probs than the one it starts from",
        "an adapter begins without an effect (B is zero): check adapter and adapter_start; with merge in bfloat16, "
        "set dtype: float32",
    )


# many parameters: two arrays to compare and what to say of them
def _compare(
    measured: StepZero,
    found_N: npt.NDArray[np.float64],
    expected_N: npt.NDArray[np.float64],
    name: str,
    words: str,
    cure: str,
) -> Identity | None:
    """Return whether log-probs are the same within rounding; None where the policy's own are not finite."""
    if not np.isfinite(measured.plain_N).all():
        return None
    difference_N = found_N - expected_N
    mean, token = abs(float(difference_N.mean())), float(np.abs(difference_N).mean())
    figures: dict[str, Figure] = {
        f"{name}_mean_nats": mean,
        f"{name}_token_nats": token,
        f"{name}_largest_nats": float(np.abs(difference_N).max()),
    }
    most_mean, most_token = MEAN_NATS[measured.dtype], TOKEN_NATS[measured.dtype]
    found = f"{words}: by {token:.2g} nats a token, {mean:.2g} in the mean"
    expected = f"at most {most_token:g} nats a token and {most_mean:g} in the mean, in {measured.dtype}"
    return Identity(mean <= most_mean and token <= most_token, found, expected, cure, figures)


def check_first_loss(measured: StepZero) -> Identity | None:
    """Check that the loss on trained tokens is finite, and not far above that of guessing uniformly, ln(vocabulary).

    It may be far above it where the order of the tokens still tells the model something: rows that are foreign to it.
    What a stage made goes with its tokenizer, and may rightly be sure of other answers than those of the next rows.
    """
    if not measured.is_trained_N.any() or not np.isfinite(measured.plain_N).all():
        return None
    loss = -float(measured.training_N[measured.is_trained_N].mean())
    uniform = math.log(measured.vocabulary)
    saved = None if measured.shuffled_N is None else float(measured.plain_N.mean() - measured.shuffled_N.mean())
    can_read = saved is not None and saved >= ORDER_NATS
    order = "" if saved is None else f", and the order of all tokens saves {saved:.2f}"
    return Identity(
        math.isfinite(loss) and (measured.is_artifact or can_read or not is_suspicious(loss, measured.vocabulary)),
        f"the loss on the first rows is {loss:.2f} nats a token, where guessing among {measured.vocabulary:,} tokens "
        f"costs {uniform:.2f}{order}",
        f"at most {uniform + WORSE_THAN_UNIFORM_NATS:.2f}, or {ORDER_NATS:g} saved by the order of tokens",
        "use the tokenizer that the weights were trained with",
        {"loss": loss, "uniform_loss": uniform, "saved_by_order_nats": saved},
    )


def is_suspicious(loss: float, vocabulary: int) -> bool:
    """Return whether a loss, in nats a token, is so far above a uniform guess that no usual weights give it."""
    return not loss <= math.log(vocabulary) + WORSE_THAN_UNIFORM_NATS


SFT_IDENTITIES: tuple[IdentityCheck, ...] = (check_finite, check_training_path, check_adapter_start, check_first_loss)
