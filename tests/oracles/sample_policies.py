"""Two tabular policies over three tokens and two prompts, which the tests of divergences and estimators share."""

from __future__ import annotations

from tests.oracles.enumeration import CompletionSpace, TabularPolicy

SPACE = CompletionSpace(num_prompts=2, num_tokens=3, max_tokens=3)
POLICY = TabularPolicy.draw(SPACE, seed=1)
NEXT_XFV = POLICY.compute_next_logprobs().detach()
REFERENCE = TabularPolicy.draw(SPACE, seed=2)
REFERENCE_XFV = REFERENCE.compute_next_logprobs().detach()
OWN_XF = SPACE.compute_reach(NEXT_XFV)
"""How often the policy's completions come to each prefix."""
