"""To the optimum of an objective on a policy that can be listed, three ways; gradients by finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.optimize
import torch

from tests.oracles.enumeration import EnumerablePolicy

Policy = TypeVar("Policy", bound=EnumerablePolicy)
Probabilities = npt.NDArray[np.float64]


# A gradient vanishes on the way to a certain policy too, so that its norm alone cannot tell an optimum at infinity.
LEAST_LOGPROB = -14.0


class NotConvergedError(Exception):
    """The gradient is not as small as was asked for, or a token has almost no probability: no finite optimum."""


@dataclass(frozen=True)
class Minimum:
    """Where a minimiser stopped: the objective's value, and the norm of the gradient over all parameters."""

    value: float
    gradient_norm: float


def minimise(
    objective: Callable[[Policy], torch.Tensor], policy: Policy, *, gradient_norm: float = 1e-8, max_rounds: int = 20
) -> Minimum:
    """Move a policy to a minimum of an objective by L-BFGS in float64, with exact gradients.

    The objective's value is what its gradient is the gradient of; for losses of which this does not hold, `descend`.

    Raises:
        NotConvergedError: After `max_rounds` rounds of 100 steps the gradient's norm is above `gradient_norm`, or some
            next token's log-prob is below `LEAST_LOGPROB`.
    """
    parameters = _check_parameters(policy)

    def compute_with_gradients() -> torch.Tensor:
        value = objective(policy)
        for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
            parameter.grad = gradient
        return value

    for _ in range(max_rounds):
        # A new optimiser each round forgets curvature that no longer holds.
        optimiser = torch.optim.LBFGS(
            parameters, max_iter=100, tolerance_grad=gradient_norm / 10, tolerance_change=0.0, history_size=30,
            line_search_fn="strong_wolfe",
        )  # fmt: skip
        optimiser.step(compute_with_gradients)
        value, norm = compute_with_gradients().item(), _compute_norm([parameter.grad for parameter in parameters])
        _check_interior(policy)
        if norm <= gradient_norm:
            return Minimum(value, norm)
    raise NotConvergedError(f"a gradient of norm {norm:.3g} after {max_rounds} rounds, expected {gradient_norm:g}")


def descend(
    surrogate: Callable[[Policy], torch.Tensor],
    policy: Policy,
    *,
    learning_rate: float = 1.0,
    gradient_norm: float = 1e-6,
    max_steps: int = 20_000,
) -> Minimum:
    """Follow the negative gradient of a surrogate that is formed anew at each policy, by plain gradient descent.

    Only the gradient is read, so the surrogate may hold back gradient from what it was sampled from, as policy
    gradients do; where the descent comes to rest is a stable fixed point of the algorithm.

    Raises:
        NotConvergedError: After `max_steps` steps the gradient's norm is above `gradient_norm`, or some next token's
            log-prob is below `LEAST_LOGPROB`.
    """
    parameters = _check_parameters(policy)
    for _ in range(max_steps):
        value = surrogate(policy)
        gradients = torch.autograd.grad(value, parameters)
        norm = _compute_norm(gradients)
        if norm <= gradient_norm:
            _check_interior(policy)
            return Minimum(value.item(), norm)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= learning_rate * gradient
    raise NotConvergedError(f"a gradient of norm {norm:.3g} after {max_steps} steps, expected {gradient_norm:g}")


def minimise_over_probabilities(
    objective: Callable[[Probabilities], float],
    shape_XY: tuple[int, int],
    *,
    at_most: Callable[[Probabilities], float] | None = None,
) -> tuple[torch.Tensor, Any]:
    """Return log-probs [X, Y] that minimise a function of the probabilities, and scipy's own result.

    Sequential quadratic programming over the simplices themselves, gradients by differences: no logits, no prefixes
    and no automatic differentiation, so that an error in those is not shared.

    Args:
        objective: Maps probabilities [X, Y], every row of sum 1, to a number.
        shape_XY: Prompts and completions.
        at_most: A function of the probabilities that may not be above 0.
    """

    def reshape(values: Probabilities) -> Probabilities:
        return values.reshape(shape_XY)

    constraints = [{"type": "eq", "fun": lambda values: reshape(values).sum(1) - 1}]
    if at_most is not None:
        constraints.append({"type": "ineq", "fun": lambda values: -at_most(reshape(values))})
    found = scipy.optimize.minimize(
        lambda values: objective(reshape(values)),
        np.full(shape_XY[0] * shape_XY[1], 1 / shape_XY[1]),
        method="SLSQP",
        jac="3-point",
        bounds=[(1e-9, 1.0)] * (shape_XY[0] * shape_XY[1]),
        constraints=constraints,
        options={"maxiter": 1000, "ftol": 1e-13},
    )
    if not found.success:
        raise NotConvergedError(found.message)
    return torch.from_numpy(reshape(found.x)).log(), found


def compute_finite_differences(
    function: Callable[[], torch.Tensor], tensor: torch.Tensor, step: float = 3e-4
) -> torch.Tensor:
    """Return the derivative of a scalar by each entry of a float64 tensor that it reads, to about 1e-10.

    (8 (f(+h) - f(-h)) - (f(+2h) - f(-2h))) / 12h, whose error is of order h^4.
    """
    gradient = torch.zeros_like(tensor)
    with torch.no_grad():
        entries, slopes = tensor.view(-1), gradient.view(-1)
        for index in range(len(entries)):
            middle = entries[index].item()
            values = []
            for shift in (step, -step, 2 * step, -2 * step):
                entries[index] = middle + shift
                values.append(function().item())
            entries[index] = middle
            slopes[index] = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)
    return gradient


def compute_gradient(function: Callable[[], torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    """Return the derivative of a scalar by a tensor, by automatic differentiation."""
    (gradient,) = torch.autograd.grad(function(), tensor)
    return gradient


def _check_parameters(policy: EnumerablePolicy) -> list[torch.Tensor]:
    parameters = policy.get_parameters()
    if any(parameter.dtype != torch.float64 for parameter in parameters):
        raise TypeError("an optimum to rounding takes float64 parameters")
    return parameters


def _check_interior(policy: EnumerablePolicy) -> None:
    with torch.no_grad():
        least = policy.compute_next_logprobs().min().item()
    if not least >= LEAST_LOGPROB:
        raise NotConvergedError(f"a next token with a log-prob of {least:.3g}: the optimum lies at infinity")


def _compute_norm(gradients: Sequence[torch.Tensor | None]) -> float:
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm().item()
