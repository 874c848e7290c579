"""Which compiled kernels, if any, take a chunk's logits to log-probs and to the gradient."""

from __future__ import annotations

from typing import Protocol

import torch

from posttrain.core.native_library import has_triton


class ScoreKernels(Protocol):
    """Compiled kernels of a chunk's logits: `native_scores.NativeScores`, `triton_scores.TritonScores`."""

    def takes(self, logits_CV: torch.Tensor) -> bool:
        """Return whether the kernels can read logits."""

    def read_chunk(
        self,
        logits_CV: torch.Tensor,
        targets_C: torch.Tensor,
        figures: torch.Tensor,
        scale: float,
        *,
        with_entropy: bool,
    ) -> torch.Tensor:
        """Fill the log-probs, whether the target is the argmax, and entropies; return the log-sum-exp, fp32 [C].

        Args:
            logits_CV: Raw logits, contiguous; `scale` times them are the logits.
            targets_C: int64, contiguous, in [0, V).
            figures: fp32 [>= 3, C] with rows of stride 1, to be filled; the third only with `with_entropy`.
            scale: The head's.
            with_entropy: Whether to compute entropies.
        """

    def write_gradient(
        self,
        logits_CV: torch.Tensor,
        targets_C: torch.Tensor,
        slopes_C: torch.Tensor,
        totals_C: torch.Tensor,
        scale: float,
    ) -> None:
        """Overwrite logits with slopes times the derivative of the targets' log-probs by the raw logits.

        Args:
            logits_CV: As `read_chunk` was given them.
            targets_C: int64.
            slopes_C: Derivative of the loss by each log-prob, fp32.
            totals_C: What `read_chunk` returned.
            scale: The head's.
        """


def find_score_kernels(logits_CV: torch.Tensor, compiled: ScoreKernels | None) -> ScoreKernels | None:
    """Return the kernels for logits: Triton's on a GPU that has it, else those that were compiled, if they can."""
    if logits_CV.device.type == "cuda" and has_triton():
        from posttrain.kernels.triton_scores import TritonScores

        return TritonScores()
    return compiled if compiled is not None and compiled.takes(logits_CV) else None
