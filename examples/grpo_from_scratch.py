"""GRPO from scratch: a small policy learns to add and subtract from nothing but a verifier's yes or no.

    python examples/grpo_from_scratch.py

A minute or two on one CPU core; nothing is downloaded. Read it from top to bottom:

1. a base model that has read texts, and never answered anybody, is shown a thousand demonstrations;
2. then, step by step: draw several completions of each question, let a verifier say which are right, compare each
   completion with its siblings, and make the better ones more probable;
3. before and after, questions that no step has seen are asked, and the difference is tested.

`posttrain run` with a stage of the type `grpo` does the same with everything that a long run needs: packed rows, a
sampler of its own, a journal of what was drawn, checkpoints (docs/rl.md). The arithmetic is the same code: advantages,
objective, weights and tests below are imported from `posttrain.objectives` and `posttrain.statistics`.

Shape letters, at the end of a tensor's name:
    Q  questions of a step             S  completions of a step, Q x GROUP_SIZE
    P  tokens of the longest prompt    T  tokens of the longest completion
    L  P + T                           V  tokens of the vocabulary
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.lab.base_model import find_lab_base
from posttrain.lab.demonstrations import generate_demonstrations
from posttrain.lab.questions import Question
from posttrain.lab.tasks import choose_skills, generate_questions
from posttrain.lab.world import build_world
from posttrain.objectives.advantages import compute_advantages
from posttrain.objectives.aggregation import compute_token_weights
from posttrain.objectives.policy_gradient import PolicyGradient
from posttrain.statistics.intervals import wilson_interval
from posttrain.statistics.paired import sign_test

SKILLS = choose_skills(["arithmetic"])  # sums and differences of one to three digits, and two steps of them
WORLD = build_world()

NUM_DEMONSTRATIONS, DEMONSTRATIONS_PER_STEP, SFT_LEARNING_RATE = 960, 16, 1e-3
QUESTIONS_PER_STEP, GROUP_SIZE, MAX_NEW_TOKENS = 16, 8, 48
UPDATES_PER_STEP = (
    2  # more than one, so that the policy moves away from the one that drew, and the ratio has work to do
)
LEARNING_RATE = 1e-4

OBJECTIVE = PolicyGradient(ratio="token", clipping="ppo", clip_low=0.2, clip_high=0.28)


def main(num_steps: int, num_held_out: int, seed: int) -> tuple[list[float], list[bool], list[bool]]:
    """Return each step's mean reward, and which held-out questions were answered rightly before and after."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, tokenizer = load_base()
    learn_from_demonstrations(model, tokenizer, seed)

    held_out = list(generate_questions(SKILLS, WORLD, "held_out", num_held_out, seed))
    before = answer(model, tokenizer, held_out, seed)
    print(f"before: {describe(before)}")

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    questions = list(generate_questions(SKILLS, WORLD, "train", num_steps * QUESTIONS_PER_STEP, seed))
    rewards = []
    for step in range(num_steps):
        asked = questions[step * QUESTIONS_PER_STEP : (step + 1) * QUESTIONS_PER_STEP]
        rewards.append(take_step(model, tokenizer, optimizer, asked, generator))
        print(f"step {step + 1:3d}: reward {rewards[-1]:.3f}")

    after = answer(model, tokenizer, held_out, seed)
    print(f"after: {describe(after)}")
    print(describe_difference(before, after))
    return rewards, before, after


# ---- 1. a policy to start from


def load_base() -> tuple[Any, Any]:
    """Return the lab's base, which knows sums and no form, and its tokenizer."""
    folder = find_lab_base()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def encode_prompt(tokenizer: Any, question: str) -> list[int]:
    """Return what the policy is given: it answers in the line below the question, until its end-of-sequence token."""
    return [tokenizer.bos_token_id, *tokenizer.encode(f"{question}\n", add_special_tokens=False)]


def learn_from_demonstrations(model: Any, tokenizer: Any, seed: int) -> None:
    """Show the base how questions are answered here: without it, no completion would end, and no reward be given.

    Half of the demonstrations are by people who are often wrong: so is what it learns, which leaves reinforcement
    something to do.
    """
    rows = list(generate_demonstrations(SKILLS, WORLD, "train", NUM_DEMONSTRATIONS, seed, ("expert", "crowd")))
    optimizer = torch.optim.AdamW(model.parameters(), lr=SFT_LEARNING_RATE, betas=(0.9, 0.95))
    for start in range(0, len(rows), DEMONSTRATIONS_PER_STEP):
        pairs = []
        for row in rows[start : start + DEMONSTRATIONS_PER_STEP]:
            question, reply = row["messages"]
            reply_ids = tokenizer.encode(reply["content"], add_special_tokens=False)
            pairs.append((encode_prompt(tokenizer, question["content"]), [*reply_ids, tokenizer.eos_token_id]))
        prompts_SP, is_prompt_SP = pad_left([prompt for prompt, _ in pairs], tokenizer.pad_token_id)
        replies_ST, is_reply_ST = pad_right([reply for _, reply in pairs], tokenizer.pad_token_id)
        logprobs_ST = compute_logprobs(model, prompts_SP, is_prompt_SP, replies_ST, is_reply_ST)
        # Every token weighs the same: the sum over all rows' tokens by their number, and not a mean of rows' means.
        loss = -(logprobs_ST * is_reply_ST).sum() / is_reply_ST.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"after {len(rows)} demonstrations: {loss.item():.3f} nats a token")


def pad_left(rows: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of unequal lengths as one tensor that all end together, and which of its tokens are theirs."""
    ids, is_real = pad_right([row[::-1] for row in rows], pad)
    return ids.flip(1), is_real.flip(1)


def pad_right(rows: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of unequal lengths as one tensor that all begin together, and which of its tokens are theirs."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    is_real = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    return ids, is_real


def find_positions(is_real_SL: torch.Tensor) -> torch.Tensor:
    """Return the place of each token in its own row: padding must not move it."""
    return (is_real_SL.long().cumsum(1) - 1).clamp(min=0)


def compute_logprobs(
    model: Any,
    prompts_SP: torch.Tensor,
    is_prompt_SP: torch.Tensor,
    completions_ST: torch.Tensor,
    is_drawn_ST: torch.Tensor,
) -> torch.Tensor:
    """Return log pi(token | all before it) of the completions' tokens, nats [S, T]; that of padding means nothing."""
    ids_SL = torch.cat([prompts_SP, completions_ST], 1)
    is_real_SL = torch.cat([is_prompt_SP, is_drawn_ST], 1)
    num_completion_tokens = completions_ST.shape[1]
    logits_STV = model(
        input_ids=ids_SL,
        attention_mask=is_real_SL.long(),
        position_ids=find_positions(is_real_SL),
        logits_to_keep=num_completion_tokens + 1,
    ).logits[:, :-1]  # what stands at a place predicts the token after it
    return logits_STV.log_softmax(-1).gather(-1, completions_ST[..., None]).squeeze(-1)


# ---- 2. draw, verify, compare, update


@torch.no_grad()
def sample(
    model: Any, prompts_SP: torch.Tensor, is_prompt_SP: torch.Tensor, tokenizer: Any, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a completion of each prompt at temperature 1; return its tokens [S, T] and which of them it drew.

    The temperature is 1 and nothing is cut off the distribution, so that what drew is the policy that is trained: any
    other setting would have to stand in the log-probs of the loss as well.
    """
    is_ended_S = torch.zeros(len(prompts_SP), dtype=torch.bool)
    mask_SL, positions, new = is_prompt_SP, find_positions(is_prompt_SP), prompts_SP
    cache = None  # keys and values of all tokens so far, so that each pass is over the newest token alone
    drawn, is_drawn = [], []
    for _ in range(MAX_NEW_TOKENS):
        output = model(
            input_ids=new,
            attention_mask=mask_SL.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        probabilities_SV = output.logits[:, -1].softmax(-1)
        new = torch.multinomial(probabilities_SV, 1, generator=generator)
        new[is_ended_S] = tokenizer.pad_token_id
        drawn.append(new)
        is_drawn.append(~is_ended_S[:, None])
        is_ended_S = is_ended_S | (new[:, 0] == tokenizer.eos_token_id)  # the token that ends it was drawn, too
        if is_ended_S.all():
            break
        mask_SL = torch.cat([mask_SL, is_drawn[-1]], 1)
        positions = positions[:, -1:] + 1
    return torch.cat(drawn, 1), torch.cat(is_drawn, 1)


def verify(question: Question, text: str, is_ended: bool) -> float:
    """Return 1 for a completion that ended by itself, its last line `Answer: ` and the right answer; else 0.

    What cannot be read is wrong, and no missing value: a policy that gains by being unreadable learns to be so.
    """
    found = re.fullmatch(r"(?:.*\n)?Answer: (.+)", text, re.DOTALL)
    is_right = found is not None and text.count("Answer:") == 1 and found[1].strip() == question.right.answer
    return float(is_ended and is_right)


def draw_and_verify(
    model: Any, tokenizer: Any, questions: Sequence[Question], group_size: int, generator: torch.Generator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return `group_size` completions of each question, siblings side by side, and their rewards fp32 [S]."""
    of_S = [question for question in questions for _ in range(group_size)]
    prompts = [encode_prompt(tokenizer, question.prompt) for question in of_S]
    prompts_SP, is_prompt_SP = pad_left(prompts, tokenizer.pad_token_id)
    completions_ST, is_drawn_ST = sample(model, prompts_SP, is_prompt_SP, tokenizer, generator)
    rewards = []
    for question, ids, is_drawn in zip(of_S, completions_ST, is_drawn_ST, strict=True):
        text = tokenizer.decode(ids[is_drawn].tolist(), skip_special_tokens=True)
        rewards.append(verify(question, text, is_ended=bool((ids == tokenizer.eos_token_id).any())))
    rows = {
        "prompts_SP": prompts_SP,
        "is_prompt_SP": is_prompt_SP,
        "completions_ST": completions_ST,
        "is_drawn_ST": is_drawn_ST,
    }
    return rows, torch.tensor(rewards)


def take_step(
    model: Any,
    tokenizer: Any,
    optimizer: torch.optim.Optimizer,
    questions: Sequence[Question],
    generator: torch.Generator,
) -> float:
    """Take one step of GRPO and return the mean reward of what was drawn.

    The loss is -sum_i sum_t w_i min(rho_it A_i, clip(rho_it) A_i) / sum_i d_i, with the advantage A of a completion,
    the ratio rho = pi / pi_old of a token, weights w and one division (arXiv 2402.03300, 2503.20783).
    """
    rows, rewards_S = draw_and_verify(model, tokenizer, questions, GROUP_SIZE, generator)
    is_drawn_ST = rows["is_drawn_ST"]

    # A completion is worth what it got beyond its siblings. Nobody has to predict how hard a question is, as a value
    # function would: the mean of the group says it. A group that got the same throughout has no advantage anywhere.
    groups_S = torch.arange(len(questions)).repeat_interleave(GROUP_SIZE)
    advantages_S = compute_advantages(rewards_S, groups_S, baseline="group_mean", scale="none").advantages_S.float()

    # Each token weighs 1 / cap, whatever the length of its completion: with 1 / length, a wrong answer would cost the
    # less by token the longer it rambles.
    weights_S, divisors_S = compute_token_weights(is_drawn_ST.sum(1), "constant_length", max_tokens=MAX_NEW_TOKENS)
    weights_ST = (weights_S[:, None] * is_drawn_ST).float()

    old_ST = None
    for _ in range(UPDATES_PER_STEP):
        logprobs_ST = compute_logprobs(model, **rows)
        old_ST = logprobs_ST.detach() if old_ST is None else old_ST  # of the policy that drew: the ratio begins at 1
        constants = {"old_logprobs": old_ST, "advantages": advantages_S[:, None].expand_as(old_ST)}
        losses_ST = OBJECTIVE(logprobs_ST, constants)
        loss = (losses_ST * weights_ST).sum() / divisors_S.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return float(rewards_S.mean())


# ---- 3. has it learnt anything?


def answer(model: Any, tokenizer: Any, questions: Sequence[Question], seed: int) -> list[bool]:
    """Return which questions are answered rightly, one completion each: pass@1 at the temperature of training."""
    _, rewards_S = draw_and_verify(model, tokenizer, questions, 1, torch.Generator().manual_seed(seed))
    return [reward == 1.0 for reward in rewards_S.tolist()]


def describe(is_right: Sequence[bool]) -> str:
    """Return a share with its 95 % interval: a bare number would not say how much of it is chance."""
    interval = wilson_interval(sum(is_right), len(is_right))
    share = sum(is_right) / len(is_right)
    return f"{share:.1%} of {len(is_right)} held-out questions right ({interval.low:.1%} to {interval.high:.1%})"


def describe_difference(before: Sequence[bool], after: Sequence[bool]) -> str:
    """Return how many questions changed sides: the same ones were asked, so that only those tell."""
    better = sum(one < other for one, other in zip(before, after, strict=True))
    worse = sum(one > other for one, other in zip(before, after, strict=True))
    test = sign_test(better, worse, alternative="greater")
    return f"{better} became right, {worse} wrong; p = {test.p_value:.2g} if neither were more likely"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--seed", type=int, default=17)
    arguments = parser.parse_args()
    main(arguments.steps, arguments.held_out, arguments.seed)
