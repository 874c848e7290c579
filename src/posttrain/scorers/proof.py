"""Proofs: a completion is right where a checker accepts it, and for no other reason.

Three checkers, one a constructor argument; each says in its module what it reads of a problem's columns:

* `KernelChecker` (here): natural deduction in the line format of `proof_kernel`. Columns `premises` (a list of
  formulas, may be left out) and `goal`, as in `proof_formulas`. In this process: its cost is bounded by the proof's
  length.
* `proof_z3.Z3Checker`: verdicts, counter-models and chains of lemmas over SMT-LIB formulas, by Z3 in killable
processes.
* `proof_lean.LeanChecker`: Lean 4, where it is installed and this process is isolated.

The proof is the completion's only fenced block, or the whole text where there is none; two blocks are unparsed, since
which one was meant is a guess. It cannot judge a proof in words, nor one that is right but for a slip.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.proof_formulas import Formula, FormulaError, parse_formula
from posttrain.scorers.proof_kernel import Logic, ProofError, check_proof
from posttrain.scorers.reasoning import ANSWER_ONLY, ReasoningBlock, read_reply

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


class ProofChecker(Protocol):
    """Judges proofs that have been taken out of completions."""

    name: str

    def check(self, items: Sequence[tuple[Problem, str]]) -> list[Outcome]:
        """Return one outcome for each problem and proof, in order.

        Raises:
            DataError: A problem's own columns cannot be used.
        """


class ProofScorer:
    """Scores 1 for a completion whose proof the checker accepts, 0 for another (`core.protocols.Scorer`).

    Args:
        checker: Who decides.
        reasoning: The block that is no part of the answer; an unfinished one is unparsed.
    """

    def __init__(self, *, checker: ProofChecker, reasoning: ReasoningBlock | None = ANSWER_ONLY) -> None:
        self.checker = checker
        self.reasoning = reasoning
        self.name = f"proof/{checker.name}"

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem's own columns cannot be used.
        """
        outcomes: list[Outcome | None] = []
        readable: list[tuple[Problem, str]] = []
        for problem, completion in items:
            proof = self._find_proof(completion)
            outcomes.append(proof if isinstance(proof, Outcome) else None)
            if not isinstance(proof, Outcome):
                readable.append((problem, proof))
        checked = iter(self.checker.check(readable))
        return [outcome if outcome is not None else next(checked) for outcome in outcomes]

    def _find_proof(self, completion: Completion) -> str | Outcome:
        text = read_reply(completion, self.reasoning)
        if isinstance(text, Outcome):
            return text
        blocks = _FENCE.findall(text)
        if len(blocks) > 1 or (not blocks and "```" in text):
            why = (
                f"{len(blocks)} fenced blocks, and one proof is wanted"
                if blocks
                else "a fenced block that is not closed"
            )
            return Outcome("unparsed", 0.0, why=why, fault="policy")
        return blocks[0] if blocks else text


class KernelChecker:
    """Checks natural deduction by `proof_kernel` (`ProofChecker`).

    Args:
        logic: `classical`, or `intuitionistic`, which refuses RAA and DNE.
    """

    name = "kernel"

    def __init__(self, *, logic: Logic = "classical") -> None:
        if logic not in ("classical", "intuitionistic"):
            raise ValueError(f"logic must be classical or intuitionistic, found {logic!r}")
        self.logic = logic

    def check(self, items: Sequence[tuple[Problem, str]]) -> list[Outcome]:
        """Return one outcome for each problem and proof, in order.

        Raises:
            DataError: A problem's premises or goal are no formulas.
        """
        return [self._check(problem, proof) for problem, proof in items]

    def _check(self, problem: Problem, proof: str) -> Outcome:
        premises = problem.columns.get("premises", [])
        if not isinstance(premises, list | tuple):
            raise _refuse(problem, f"'premises' is {premises!r}")
        assumed = [_read_formula(problem, "premises", premise) for premise in premises]
        goal = _read_formula(problem, "goal", problem.columns.get("goal"))
        try:
            num_lines = check_proof(assumed, goal, proof, logic=self.logic)
        except ProofError as error:
            if error.is_form:
                return Outcome("unparsed", 0.0, why=str(error), fault="policy")
            return Outcome("scored", 0.0, why=str(error))
        return Outcome("scored", 1.0, why="every line follows", parts={"lines": float(num_lines)})


def _read_formula(problem: Problem, column: str, text: object) -> Formula:
    if not isinstance(text, str):
        raise _refuse(problem, f"'{column}' holds {text!r}" if column in problem.columns else f"no column '{column}'")
    try:
        return parse_formula(text)
    except FormulaError as error:
        raise _refuse(problem, f"'{column}' holds {text!r:.80}: {error}") from error


def _refuse(problem: Problem, found: str) -> DataError:
    return DataError(
        found,
        expected="'goal', a formula, and 'premises', a list of formulas, such as 'P -> (Q & R)' or 'forall x. P(x)'",
        cure="correct the row, or map its columns in the task's data",
        place=problem.problem_id,
    )
