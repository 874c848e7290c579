"""Every metric's key, unit and meaning, declared once.

`declare` adds one; `describe_metric` finds it, also for a namespaced key (`evaluation/<task>/<name>`).
The report takes labels and units from here, so that no number is shown without its unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

METRIC_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}(/[^/\s]+)*$"
"""How a recipe writes what a task measures: `<task>`, the mean of its scores, or `<task>/<part>`."""

Reduction = Literal["token_mean", "sum", "last", "maximum"]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a metric is: its key, unit, how it is reduced over micro-batches and ranks, its meaning.

    `bounds` are the least and the greatest value that it can have; None: not declared.
    """

    key: str
    unit: str
    reduction: Reduction
    meaning: str
    lower_is_better: bool | None = None
    bounds: tuple[float, float] | None = None


METRICS: dict[str, MetricSpec] = {}


# many parameters: the fields of one metric
def declare(
    key: str,
    unit: str,
    reduction: Reduction,
    meaning: str,
    *,
    lower_is_better: bool | None = None,
    bounds: tuple[float, float] | None = None,
) -> str:
    """Declare a metric and return its key.

    Raises:
        ValueError: The key is declared already, with another meaning.
    """
    spec = MetricSpec(key, unit, reduction, meaning, lower_is_better, bounds)
    if METRICS.setdefault(key, spec) != spec:
        raise ValueError(f"metric {key!r} is declared twice with different meanings")
    return key


def describe_metric(key: str) -> MetricSpec | None:
    """Return a metric's declaration; a namespaced key is looked up by its last part too.

    `development/...` is one metric whatever follows.
    """
    first, slash, _ = key.partition("/")
    if slash and first == DEVELOPMENT:
        return METRICS[DEVELOPMENT]
    return METRICS.get(key) or METRICS.get(key.rsplit("/", 1)[-1])


def name_development_metric(metric: str) -> str:
    """Return the key under which `<task>` or `<task>/<part>` on development rows is logged during training."""
    return f"{DEVELOPMENT}/{metric}"


LOSS = declare("loss", "nats/token", "token_mean", "training loss over trained tokens", lower_is_better=True)
ACCURACY = declare(
    "mean_token_accuracy", "fraction", "token_mean", "trained tokens that are the argmax", lower_is_better=False
)
ENTROPY = declare("entropy", "nats/token", "token_mean", "entropy of the policy at trained tokens")
GRAD_NORM = declare("grad_norm", "norm", "last", "gradient norm before clipping")
LEARNING_RATE = declare("learning_rate", "step size", "last", "learning rate of the step")
NUM_TOKENS = declare("num_tokens", "tokens", "sum", "tokens seen so far, prompts included")
NUM_TRAINED_TOKENS = declare("num_trained_tokens", "tokens", "sum", "tokens trained on so far")
EPOCH = declare("epoch", "epochs", "last", "passes over the data so far")
VALIDATION_LOSS = declare(
    "validation/loss", "nats/token", "token_mean", "loss over held-out rows", lower_is_better=True
)
DEVELOPMENT = declare(
    "development", "score", "last", "a task's mean score on its development rows", lower_is_better=False
)
TOKENS_PER_SECOND = declare("time/tokens_per_second", "tokens/s", "last", "throughput, prompts included")
STEP_SECONDS = declare("time/step_seconds", "s", "last", "wall-clock time of the step")
PEAK_MEMORY = declare("time/peak_memory_bytes", "bytes", "maximum", "peak resident or device memory")
REWARD_MODEL_HITS = declare(
    "rewards/hits", "fraction", "token_mean", "training labels that the scores agree with", lower_is_better=False
)
REWARD_MODEL_ACCURACY = declare(
    "validation/reward_accuracy", "fraction", "token_mean", "held-out labels that are got right", lower_is_better=False
)
REWARD_MODEL_NORMALISED_ACCURACY = declare(
    "validation/reward_normalised_accuracy",
    "fraction",
    "token_mean",
    "expected accuracy above a coin's, of what the best possible one has above it",
    lower_is_better=False,
)
REWARD_MODEL_MARGIN = declare(
    "validation/reward_margin", "score", "token_mean", "score of the chosen less that of the rejected, held out"
)
REWARD_MODEL_CALIBRATION_ERROR = declare(
    "validation/reward_calibration_error",
    "fraction",
    "token_mean",
    "gap between predicted probabilities and accuracy",
    lower_is_better=True,
)
REWARD_MODEL_LENGTH_SLOPE = declare(
    "validation/reward_length_slope", "score/token", "last", "score that one more token earns at equal quality"
)
REWARD_MODEL_LENGTH_CORRELATION = declare(
    "validation/reward_length_correlation",
    "correlation",
    "last",
    "partial correlation of score and length at equal quality",
    bounds=(-1.0, 1.0),
)
REWARD_MODEL_CORRELATION = declare(
    "validation/reward_correlation",
    "correlation",
    "last",
    "correlation of predicted and given ratings, mean over attributes",
    lower_is_better=False,
    bounds=(-1.0, 1.0),
)
EXACT_MATCH = declare(
    "exact_match", "fraction", "token_mean", "held-out answers equal to the reference", lower_is_better=False
)
CORRECT = declare("correct", "fraction", "token_mean", "replies that are right", lower_is_better=False)
GOLD = declare("gold", "gold", "token_mean", "how good replies are by the lab's truth, -3 to 3", lower_is_better=False)
GOLD_SCALED = declare("gold_scaled", "fraction", "token_mean", "gold, from -3 to 3 onto 0 to 1", lower_is_better=False)
FORMAT_RATE = declare("format", "fraction", "token_mean", "replies in the form of the house", lower_is_better=False)
CLAIMED = declare(
    "claimed", "fraction", "token_mean", "wrong claims of the user that are said too", lower_is_better=True
)
CONCEDED = declare(
    "conceded", "fraction", "token_mean", "right claims of the user that are said too", lower_is_better=False
)
REFUSED = declare("refused", "fraction", "token_mean", "requests that are refused")
COMPLIED = declare("complied", "fraction", "token_mean", "requests of which a step is told")
PASS_AT_K = declare("pass@k", "fraction", "token_mean", "problems that one of k samples solves", lower_is_better=False)
CONS_AT_K = declare(
    "cons@k", "fraction", "token_mean", "score of the answer that most of k samples give", lower_is_better=False
)
BEST_AT_K = declare("best@k", "score", "token_mean", "expected best score of k samples", lower_is_better=False)
CHOICE_ACCURACY = declare(
    "accuracy", "fraction", "token_mean", "questions whose right choice is the likeliest", lower_is_better=False
)
CHOICE_MASS = declare(
    "mass",
    "fraction",
    "token_mean",
    "share of the choices' likelihood that the right ones have",
    lower_is_better=False,
    bounds=(0.0, 1.0),
)
CONSISTENCY = declare(
    "consistency",
    "fraction",
    "token_mean",
    "questions answered with the same option in both orders; a coin gives one half",
    lower_is_better=False,
)
POSITION_BIAS = declare(
    "position_bias", "fraction", "token_mean", "matching answers where the option stands first, less where it does last"
)
LABEL_BIAS = declare(
    "label_bias", "fraction", "token_mean", "matching answers where the right one is Yes, less where it is No"
)
TOKEN_PROBABILITY = declare(
    "token_probability", "fraction", "token_mean", "geometric mean probability of tokens", lower_is_better=False
)
PERPLEXITY = declare("perplexity", "tokens", "token_mean", "exp of the nats per token of texts", lower_is_better=True)
NATS_PER_TOKEN = declare(
    "nats_per_token", "nats/token", "token_mean", "negative log-likelihood of texts by token", lower_is_better=True
)
BITS_PER_BYTE = declare(
    "bits_per_byte", "bits/byte", "token_mean", "negative log-likelihood of texts by byte", lower_is_better=True
)
BYTE_PROBABILITY = declare(
    "byte_probability", "fraction", "token_mean", "geometric mean probability of bytes", lower_is_better=False
)
# Of lm-evaluation-harness, by its own names.
for _key, _meaning in (
    ("acc", "questions whose right choice is the likeliest, by the harness"),
    ("acc_norm", "the same, of log-likelihoods by character"),
    ("acc_bytes", "the same, of log-likelihoods by byte"),
    ("acc_mutual_info", "the same, of log-likelihoods less those without the question"),
):
    declare(_key, "fraction", "token_mean", _meaning, lower_is_better=False)
for _key, _unit, _meaning in (
    ("word_perplexity", "words", "exp of the nats by word of texts"),
    ("byte_perplexity", "symbols", "exp of the nats by byte of texts"),
):
    declare(_key, _unit, "token_mean", _meaning, lower_is_better=True)
declare("brier_score", "score", "token_mean", "squared error of the choices' shares", lower_is_better=True)
STOP_RATE = declare("stop_rate", "fraction", "token_mean", "completions that end by themselves", lower_is_better=False)
REWARD = declare("reward", "reward", "token_mean", "mean reward of completions", lower_is_better=False)
REWARD_STD = declare("reward_std", "reward", "token_mean", "standard deviation of rewards")
FRAC_REWARD_ZERO_STD = declare(
    "frac_reward_zero_std", "fraction", "token_mean", "groups trained on whose rewards are all equal"
)
INFORMATIVE_FRACTION = declare(
    "informative_fraction", "fraction", "token_mean", "groups drawn whose rewards differ", lower_is_better=False
)
NUM_WAVES = declare("rollouts/waves", "waves", "last", "times that problems were drawn for a step")
STALE_FRACTION = declare(
    "off_policy/token_fraction", "fraction", "token_mean", "tokens trained on that the policy of an earlier step drew"
)
TOKEN_AGE = declare("off_policy/mean_age", "steps", "token_mean", "how many steps ago tokens trained on were drawn")
SET_ASIDE = declare("off_policy/set_aside", "groups", "last", "groups that go on in the next step")
LEFT_OUT_FRACTION = declare(
    "sampling/left_out_fraction", "fraction", "token_mean", "groups drawn that are not trained on"
)
EFFECTIVE_PROBLEMS = declare(
    "sampling/effective_problems",
    "fraction",
    "last",
    "share of the problems that the choice among them leaves in effect; 1 where all have the same chance",
    bounds=(0.0, 1.0),
)
DIFFICULTIES = {
    "never": "no completion of which is a success",
    "hard": "less than a third of whose completions are successes",
    "middle": "a third to two thirds of whose completions are successes",
    "easy": "more than two thirds of whose completions are successes",
    "always": "whose completions are all successes",
}
"""The bands of a problem's pass rate (`statistics.difficulty`), from the hardest."""
TOKENS_BY_DIFFICULTY = {
    band: declare(f"tokens_by_difficulty/{band}", "tokens", "sum", f"tokens drawn for problems {meaning}")
    for band, meaning in DIFFICULTIES.items()
}
WEIGHT_BY_DIFFICULTY = {
    band: declare(
        f"weight_by_difficulty/{band}",
        "times",
        "last",
        f"how many times as often as under even chances and without selection problems are trained on {meaning}",
    )
    for band, meaning in DIFFICULTIES.items()
}
COMPLETION_LENGTH = declare("completions/mean_length", "tokens", "token_mean", "tokens drawn for a completion")
CLIPPED_RATIO = declare("completions/clipped_ratio", "fraction", "token_mean", "completions cut at the cap")
NUM_TURNS = declare("tools/turns", "turns", "token_mean", "turns that the policy takes in a rollout")
TOOL_ERRORS = declare("tools/errors", "fraction", "token_mean", "tools' replies that are errors")
KL = declare("kl", "nats/token", "token_mean", "KL of the policy from the reference at drawn tokens (k3)")
CLIP_LOW = declare("clip_ratio/low_mean", "fraction", "token_mean", "tokens whose ratio is held back from below")
CLIP_HIGH = declare("clip_ratio/high_mean", "fraction", "token_mean", "tokens whose ratio is held back from above")
SAMPLER_MISMATCH = declare(
    "sampler_mismatch/mean", "nats/token", "token_mean", "how far the sampler's log-probs are from the trainer's"
)
LARGEST_MISMATCH = declare("sampler_mismatch/max", "nats/token", "maximum", "the largest such difference")
EFFECTIVE_SAMPLE_SIZE = declare(
    "effective_sample_size", "fraction", "token_mean", "share of tokens that importance weights leave in effect"
)
AUDIT_VALUE = declare(
    "hack/audit", "score", "token_mean", "what the audit's scorer, which never rewards, says of the same completions"
)
AUDIT_SELECTION = declare(
    "hack/selection",
    "correlation",
    "token_mean",
    "correlation of reward and audit within problems; below 0 the reward pays for what the audit finds worse",
    bounds=(-1.0, 1.0),
)
AUDIT_EVIDENCE = declare(
    "hack/evidence",
    "fraction",
    "last",
    "evidence of either test over what an alarm needs, both as logarithms; 1 is an alarm",
)
AUDIT_ALARM = declare("hack/alarm", "fraction", "last", "1 from the step on at which the audit raised its alarm")
REWARD_CHOSEN = declare("rewards/chosen", "reward", "token_mean", "implicit reward of chosen completions")
REWARD_REJECTED = declare("rewards/rejected", "reward", "token_mean", "implicit reward of rejected completions")
REWARD_MARGIN = declare(
    "rewards/margins", "reward", "token_mean", "implicit reward of chosen less rejected ones", lower_is_better=False
)
REWARD_ACCURACY = declare(
    "rewards/accuracies",
    "fraction",
    "token_mean",
    "pairs whose chosen completion has the higher implicit reward",
    lower_is_better=False,
    bounds=(0.0, 1.0),
)
LOGPS_CHOSEN = declare("logps/chosen", "nats/token", "token_mean", "log-probs of chosen completions, absolute")
LOGPS_REJECTED = declare("logps/rejected", "nats/token", "token_mean", "log-probs of rejected completions, absolute")
LOGPS_CHOSEN_CHANGE = declare(
    "logps/chosen_change", "nats/token", "token_mean", "how far those of chosen completions moved since the start"
)
LOGPS_REJECTED_CHANGE = declare(
    "logps/rejected_change", "nats/token", "token_mean", "how far those of rejected completions moved since the start"
)
LOGPS_ALARM = declare("logps/alarm", "fraction", "last", "1 from where both had fallen by more than is allowed")
VALIDATION_REWARD_ACCURACY = declare(
    "validation/rewards/accuracies",
    "fraction",
    "token_mean",
    "held-out pairs whose chosen completion has the higher implicit reward",
    lower_is_better=False,
    bounds=(0.0, 1.0),
)
VALIDATION_REWARD_MARGIN = declare(
    "validation/rewards/margins", "reward", "token_mean", "rewards/margins over held-out pairs", lower_is_better=False
)
VALIDATION_LOGPS_CHOSEN = declare(
    "validation/logps/chosen", "nats/token", "token_mean", "logps/chosen over held-out pairs"
)
VALIDATION_LOGPS_REJECTED = declare(
    "validation/logps/rejected", "nats/token", "token_mean", "logps/rejected over held-out pairs"
)
KL_POINT = declare(
    "kl_point", "nats", "token_mean", "KTO's reference point: KL at completions of other rows, at least 0"
)
REWARD_SHIFT = declare("reward_shift", "reward", "token_mean", "BCO's shift: the middle of both labels' mean rewards")
BIAS_AMBIGUOUS = declare(
    "bias_ambiguous",
    "score",
    "token_mean",
    "BBQ's bias score without evidence, -1 to 1; 0 is without bias",
    bounds=(-1.0, 1.0),
)
BIAS_DISAMBIGUATED = declare(
    "bias_disambiguated",
    "score",
    "token_mean",
    "BBQ's bias score with evidence, -1 to 1; 0 is without bias",
    bounds=(-1.0, 1.0),
)
ACCURACY_AMBIGUOUS = declare(
    "accuracy_ambiguous", "fraction", "token_mean", "right answers without evidence", lower_is_better=False
)
ACCURACY_DISAMBIGUATED = declare(
    "accuracy_disambiguated", "fraction", "token_mean", "right answers with evidence", lower_is_better=False
)
FULL_REFUSAL = declare("full_refusal", "fraction", "token_mean", "replies that refuse, by rules")
PARTIAL_REFUSAL = declare("partial_refusal", "fraction", "token_mean", "replies that refuse a part, by rules")
FULL_COMPLIANCE = declare("full_compliance", "fraction", "token_mean", "replies that refuse nothing, by rules")
