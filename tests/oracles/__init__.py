"""Oracles: every algorithm is checked against mathematics, on policies small enough to list all that they can say.

With V tokens, one of which ends a completion, and at most L positions there are a few dozen completions of a prompt.
So an expectation is a sum over all of them, without sampling noise; the optimum of an objective is known by formula or
found to rounding; and an algorithm that is right lands on it with a total variation below 1e-3, in seconds.

* `enumeration`: the completions of a few prompts, laid out as token objectives take them; a policy that can be
  listed; the table of logits that is one; expectation, entropy, total variation, the expected loss of an objective.
* `llama_policy`: the same over a real one-layer Llama, its log-probs worked out in float64 by a forward pass written
  out here, and the way of the same completions through the project's own packed rows.
* `divergences`: each KL by its name, over whole completions and token by token after given prefixes, which are
  different quantities with different gradients; their gradients derived by hand.
* `closed_forms`: tilted, conditioned, best-of-n and constrained optima; Bradley-Terry probabilities.
* `self_training`: what training on one's own accepted samples converges to.
* `minimising`: to the optimum by L-BFGS, by gradient alone, and by a minimiser that shares nothing with them;
  gradients by finite differences.

How to write the oracle of an algorithm. Make a `CompletionSpace` and a random `TabularPolicy` as reference. Write the
loss that the project computes as a function of the policy: log-probs from `policy.compute_logprobs_N()` (tokens of all
completions, with `space.offsets`) or `compute_logprobs_XY()`, advantages or labels as exact numbers, every completion
weighted by the probability with which it would be sampled (`compute_expected_loss`). If the loss itself is what is
minimised (SFT, DPO), `minimise` it; if only its gradient means something (policy gradients, whose sampling
distribution carries none), `descend` along it. Compare `compute_total_variation` with the closed form. Where there is
none, `minimise_over_probabilities` finds the optimum from the formula in numpy. Then once through the real path: the
same loss on `build_batch` by `build_scored_policy`, gradients compared with the exact ones (`find_gradient_error`).
Nothing here may import the formula that it is to check.

Shape letters: X prompts, Y completions of a prompt, S = X Y sequences (prompt by prompt), N tokens of all sequences,
M tokens of one prompt's completions, F prefixes after which a token is drawn, V tokens of the vocabulary, L most
tokens of a completion. Log-probs and KLs are in nats, tensors in float64.
"""
