"""Proofs about SMT-LIB formulas, checked by Z3 in killable processes.

Columns: `declarations` (SMT-LIB text: `declare-const`, `declare-fun`, `declare-sort`, `define-fun` and no other
command), `assumptions` (a list of formulas, may be left out), `goal` (a formula). A completion is lines of

    verdict: valid            the goal follows from the assumptions
    verdict: invalid          it does not
    lemma: (<= 0 (* x x))     with `valid`, any number, in order: each follows from the assumptions and the lemmas
    before it model: (= x (- 3))        with `invalid`, one for each declared constant (and for values of functions, as
                              needed): a counter-model, ground equations of a term and a literal

Empty lines are allowed and nothing else is. Formulas are read by a parser of this module that knows declared names,
bound variables, literals and a list of operators; no command, quoted symbol, string, annotation or `!` passes, and
what Z3 is given is written again from what was read. Z3 runs in `sandbox.pool.Pool` only, under limits of CPU, memory
and its own count of steps (`rlimit`), which decides and does not depend on the machine.

What Z3 cannot say within its limits is the policy's where the policy gave the step (a lemma, the goal after lemmas, a
model: `timed_out`, 0), and the harness's where only the verdict was to be judged. It cannot judge how good a lemma is:
a lemma that restates the goal is allowed where Z3 proves it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from typing import Any

from posttrain.core.errors import DataError, SandboxError
from posttrain.core.records import Outcome, Problem
from posttrain.sandbox.limits import JobError, Limits
from posttrain.sandbox.pool import Pool
from posttrain.scorers.proof_smtlib import (
    MAX_CHARACTERS,
    SmtError,
    Vocabulary,
    read_declarations,
    read_formula,
    read_model_line,
)

MAX_LINES = 100
Z3_LIMITS = Limits(cpu_seconds=10.0, wall_seconds=60.0, memory_bytes=2 << 30, output_bytes=1 << 16)
_LINE = re.compile(r"\s*(verdict|lemma|model)\s*:\s*(.+?)\s*", re.IGNORECASE)


class Z3Checker:
    """Checks verdicts, lemma chains and counter-models by Z3 (`ProofChecker`).

    Args:
        requires_model: Whether a bare `verdict: invalid` is worth nothing. A bare verdict is right half of the time.
        steps: Z3's `rlimit` for one query: a lemma, the goal, or a model.
        num_workers: Processes at a time.
        limits: What one completion may use in all.

    Raises:
        SandboxError: z3-solver is not installed.
    """

    name = "z3"

    def __init__(
        self,
        *,
        requires_model: bool = True,
        steps: int = 2_000_000,
        num_workers: int = 1,
        limits: Limits = Z3_LIMITS,
    ) -> None:
        if importlib.util.find_spec("z3") is None:
            raise SandboxError(
                "Z3 is not installed",
                expected="the package z3-solver",
                cure="pip install 'posttrain[proofs]'",
                place="z3",
            )
        if steps < 1:
            raise ValueError(f"steps must be at least 1, found {steps}")
        self.requires_model = requires_model
        self.steps = steps
        self._pool = Pool("posttrain.scorers.proof_z3:solve", num_workers=num_workers, limits=limits)

    def close(self) -> None:
        """End the processes; a later `check` starts fresh ones."""
        self._pool.close()

    def check(self, items: Sequence[tuple[Problem, str]]) -> list[Outcome]:
        """Return one outcome for each problem and proof, in order.

        Raises:
            DataError: A problem's declarations, assumptions or goal cannot be used.
        """
        prepared = [self._prepare(problem, proof) for problem, proof in items]
        jobs = [job for job in prepared if not isinstance(job, Outcome)]
        try:
            answers = iter(self._pool.map(jobs))
        except SandboxError as error:
            return [
                job if isinstance(job, Outcome) else Outcome("errored", 0.0, why=error.found, fault="harness")
                for job in prepared
            ]
        return [
            job if isinstance(job, Outcome) else _judge(job, next(answers), problem)
            for job, (problem, _) in zip(prepared, items, strict=True)
        ]

    def _prepare(self, problem: Problem, proof: str) -> dict[str, Any] | Outcome:
        vocabulary, task = _read_task(problem)
        try:
            verdict, lemmas, model = _read_proof(proof, vocabulary)
        except SmtError as error:
            return Outcome("unparsed", 0.0, why=str(error), fault="policy")
        if verdict == "invalid" and not model and self.requires_model:
            return Outcome("scored", 0.0, why="invalid is claimed without a counter-model")
        if verdict == "invalid" and model and (missing := vocabulary.constants - {name for name, _ in model}):
            return Outcome("scored", 0.0, why=f"the counter-model gives no value to {min(missing)!r}")
        return {**task, "verdict": verdict, "lemmas": lemmas, "model": [line for _, line in model], "steps": self.steps}


def _read_task(problem: Problem) -> tuple[Vocabulary, dict[str, Any]]:
    declarations = problem.columns.get("declarations", "")
    assumptions, goal = problem.columns.get("assumptions", []), problem.columns.get("goal")
    try:
        if not isinstance(declarations, str) or not isinstance(assumptions, list | tuple) or not isinstance(goal, str):
            raise SmtError("'declarations' and 'goal' are not text, or 'assumptions' is no list")
        vocabulary, commands = read_declarations(declarations)
        written = [read_formula(str(assumption), vocabulary) for assumption in assumptions]
        return vocabulary, {"declarations": commands, "assumptions": written, "goal": read_formula(goal, vocabulary)}
    except SmtError as error:
        raise DataError(
            str(error),
            expected="'declarations', SMT-LIB declarations; 'assumptions', a list of formulas; 'goal', a formula",
            cure="correct the row, or map its columns in the task's data",
            place=problem.problem_id,
        ) from error


def _read_proof(proof: str, vocabulary: Vocabulary) -> tuple[str, list[str], list[tuple[str, str]]]:
    """Return the verdict, the lemmas, and for each line of the model the constant that it is of ("" for a function)."""
    verdicts, lemmas, model = [], [], []
    lines = [line for line in proof.splitlines() if line.strip()]
    if len(lines) > MAX_LINES:
        raise SmtError(f"{len(lines)} lines, more than {MAX_LINES}")
    for line in lines:
        found = _LINE.fullmatch(line) if len(line) <= MAX_CHARACTERS else None
        if found is None:
            raise SmtError(f"{line.strip()!r:.60} is no line of a verdict, lemma or model")
        kind = found[1].casefold()
        if kind == "verdict":
            verdicts.append(found[2].casefold())
        elif kind == "lemma":
            lemmas.append(read_formula(found[2], vocabulary))
        else:
            model.append(read_model_line(found[2], vocabulary))
    if len(verdicts) != 1 or verdicts[0] not in ("valid", "invalid"):
        raise SmtError(f"the verdicts are {verdicts}, and one of valid, invalid is wanted")
    if (verdicts[0] == "valid" and model) or (verdicts[0] == "invalid" and lemmas):
        raise SmtError("a model goes with invalid, lemmas with valid")
    return verdicts[0], lemmas, model


def _judge(job: dict[str, Any], answer: Any, problem: Problem) -> Outcome:
    """Turn what Z3 said, or what became of its process, into an outcome; raise where the task itself is malformed."""
    is_bare = not job["lemmas"] and not job["model"]
    if isinstance(answer, JobError):
        is_limit = answer.kind in ("timeout", "memory", "crash")
        if is_bare or not is_limit:
            return Outcome("errored", 0.0, why=f"Z3: {answer.found}", fault="harness")
        return Outcome("timed_out", 0.0, why=f"Z3: {answer.found}", fault="policy")
    result, where = answer["result"], answer["where"]
    if result == "unknown":
        if is_bare:
            return Outcome("errored", 0.0, why=f"Z3 cannot say whether {where}", fault="harness")
        return Outcome("timed_out", 0.0, why=f"Z3 cannot say within its steps whether {where}", fault="policy")
    if result == "task_error":
        raise DataError(
            f"Z3 does not read the task: {where}",
            expected="declarations, assumptions and a goal with sorts that fit",
            cure="correct the row",
            place=problem.problem_id,
        )
    if result == "error":
        return Outcome("unparsed", 0.0, why=f"Z3 does not read it: {where}", fault="policy")
    why = where if result == "yes" else f"it is not so that {where}"
    return Outcome("scored", float(result == "yes"), why=why, parts={"lemmas": float(len(job["lemmas"]))})


def solve(job: dict[str, Any]) -> dict[str, str]:
    """Answer one job inside a worker: `yes`, `no`, `unknown`, `error` or `task_error`, and of what.

    Z3 is imported here, in the process that may be killed, and nowhere else.
    """
    import z3

    goal, lemmas = job["goal"], job["lemmas"]
    try:
        _parse(job, [goal])
    except z3.Z3Exception as error:
        return {"result": "task_error", "where": str(error)[:200]}
    try:
        if job["verdict"] == "invalid":
            result = {"sat": "yes", "unsat": "no"}.get(_ask(job, [f"(not {goal})", *job["model"]]), "unknown")
            return {"result": result, "where": "the counter-model holds" if job["model"] else "the goal can fail"}
        for number, claim in enumerate([*lemmas, goal]):
            answer = _ask(job, [*lemmas[:number], f"(not {claim})"])
            if answer != "unsat":
                name = f"lemma {number + 1}" if number < len(lemmas) else "the goal"
                result = "no" if answer == "sat" else "unknown"
                return {"result": result, "where": f"{name} follows"}
    except z3.Z3Exception as error:
        return {"result": "error", "where": str(error)[:200]}
    return {"result": "yes", "where": "the goal follows"}


def _parse(job: dict[str, Any], formulas: Sequence[str]) -> Any:
    import z3

    asserted = "".join(f"\n(assert {formula})" for formula in [*job["assumptions"], *formulas])
    return z3.parse_smt2_string(job["declarations"] + asserted)


def _ask(job: dict[str, Any], formulas: Sequence[str]) -> str:
    """Return whether the assumptions and formulas can be true together: `sat`, `unsat` or `unknown`."""
    import z3

    solver = z3.Solver()
    solver.set("rlimit", job["steps"])
    solver.add(_parse(job, formulas))
    return str(solver.check())
