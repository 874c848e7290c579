"""Proofs in Lean 4: the task fixes the statement, the completion is its proof and nothing else.

Columns: `lean_statement`, such as `theorem add_zero' (n : Nat) : n + 0 = n` (one theorem, without `:=`), and
`lean_header` before it (imports, opens; may be left out). A completion is what follows
`:=`: a term, or `by` and tactics.

A proof is refused before Lean sees it where it holds a word of `REFUSED_WORDS` (`sorry`, `axiom`, `native_decide`,
`import`, `macro`, `elab`, `run_tac`, `unsafe`, `extern`, `set_option`, declarations, ...), a command `#...`, a name in
`Lean.` or a quoted name (`«...»`), anywhere, comments included. Then Lean elaborates it, and it is accepted where
there is no error and `#print axioms`, asked after it at a line that this module knows, lists allowed axioms only: what
a proof itself prints stands elsewhere.

Isolation. Elaborating Lean text is running a program: tactics compute, and metaprograms (which the words above are
meant to keep out, but no list of words is a proof) reach files and the network. So Lean runs in `sandbox.pool.Pool`:
its own session, killed as a whole at a deadline, with bounded CPU time, memory and output, no file growth, and an
environment of the named variables only. That is no cage. `is_isolated=True` states that this process already runs
where a hostile program may: a container or virtual machine without network, secrets or writable shared files. Without
it the checker does not start.

It cannot judge whether the statement says what was meant, and a proof that needs a refused word is refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError, SandboxError
from posttrain.core.records import Outcome, Problem
from posttrain.sandbox.limits import JobError, Limits
from posttrain.sandbox.pool import Pool

ALLOWED_AXIOMS = ("propext", "Classical.choice", "Quot.sound")
LEAN_LIMITS = Limits(cpu_seconds=120.0, wall_seconds=300.0, memory_bytes=16 << 30, output_bytes=1 << 20)
MAX_PROOF_CHARACTERS = 20_000
_PASSED_VARIABLES = ("LEAN_PATH", "ELAN_HOME", "HOME", "LEAN_SYSROOT")
REFUSED_WORDS = frozenset(
    (
        "sorry", "admit", "sorryAx", "stop", "axiom", "constant", "opaque", "native_decide", "native",
        "ofReduceBool", "ofReduceNat", "reduceBool", "reduceNat", "trustCompiler", "bv_decide", "bv_check",
        "import", "prelude", "module", "export", "open", "namespace", "section", "end", "variable", "universe",
        "theorem", "lemma", "def", "abbrev", "example", "instance", "class", "structure", "inductive",
        "coinductive", "deriving", "mutual", "attribute", "private", "protected", "public", "noncomputable",
        "partial", "unsafe", "extern", "implemented_by", "csimp", "initialize", "builtin_initialize", "init",
        "macro", "macro_rules", "syntax", "declare_syntax_cat", "notation", "notation3", "infix", "infixl",
        "infixr", "prefix", "postfix", "elab", "elab_rules", "by_elab", "run_cmd", "run_tac", "run_elab",
        "run_meta", "eval", "evalExpr", "simproc", "dsimproc", "register_simp_attr", "set_option", "include_str",
        "dbg_trace", "debug", "unsafeCast", "unsafeIO", "unsafeBaseIO", "unsafeEIO", "unsafeEval", "ptrAddrUnsafe",
        "IO", "Lean", "Elab", "Meta", "Qq", "lcProof", "lcUnreachable", "lcAny", "local", "scoped", "omit",
        "include", "compile_inductive", "add_decl_doc", "addDecl", "exit", "grind_pattern",
    )
)  # fmt: skip
_REFUSED_PATTERNS = (
    (re.compile(r"#(?!\[)\s*[A-Za-z]"), "a command that begins with #"),
    (re.compile("[\u00ab\u00bb]"), "a quoted name"),
    (re.compile(r"@\s*\["), "an attribute"),
    (re.compile(r"%\s*[({]|`\s*\("), "a quotation"),
    (
        re.compile(r"[\u0000-\u0008\u000b-\u001f\u007f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"),
        "a control character",
    ),
)
_WORD = re.compile(r"[^\W\d][\w'!?]*")
_STATEMENT = re.compile(r"\s*theorem\s+(?P<name>[A-Za-z_][\w'.]*)(?=[\s:({\[])(?P<rest>.*)", re.DOTALL)
_AXIOMS = re.compile(
    r"'(?P<name>\S+)' (?:depends on axioms: \[(?P<axioms>[^\]]*)\]|does not depend on any axioms)\s*", re.DOTALL
)


def find_refused(proof: str) -> str | None:
    """Return what in a proof's text is refused, or None; comments and strings are searched like the rest."""
    if len(proof) > MAX_PROOF_CHARACTERS:
        return f"{len(proof)} characters, more than {MAX_PROOF_CHARACTERS}"
    for pattern, what in _REFUSED_PATTERNS:
        if pattern.search(proof):
            return what
    words = [found[0] for found in _WORD.finditer(proof)]
    return next((f"{word!r}" for word in words if word in REFUSED_WORDS), None)


class LeanChecker:
    """Checks proofs by Lean 4 (`ProofChecker`).

    Args:
        is_isolated: States that this process runs isolated, as the module says.
        lean: The executable; by default the environment's LEAN, or `lean` on the PATH.
        allowed_axioms: What `#print axioms` may list.
        num_workers: Processes at a time.
        limits: What one proof may use.

    Raises:
        SandboxError: Lean is not installed, or nobody states that it would run isolated.
    """

    name = "lean"

    def __init__(
        self,
        *,
        is_isolated: bool,
        lean: str | None = None,
        allowed_axioms: Sequence[str] = ALLOWED_AXIOMS,
        num_workers: int = 1,
        limits: Limits = LEAN_LIMITS,
    ) -> None:
        if not is_isolated:
            raise SandboxError(
                "Lean runs programs that a model wrote, and this process is not stated to be isolated",
                expected="a container or virtual machine without network, secrets or writable shared files",
                cure="start it in one and pass is_isolated=True, or choose the kernel or Z3",
                place="lean",
            )
        wanted = lean or os.environ.get("LEAN") or "lean"
        found = shutil.which(wanted)
        if found is None:
            raise SandboxError(
                f"Lean is not installed: there is no program '{wanted}'",
                expected="Lean 4 on the PATH, or its path in the environment's LEAN",
                cure="install it with elan (https://lean-lang.org), or choose the kernel or Z3",
                place="lean",
            )
        self.allowed_axioms = frozenset(allowed_axioms)
        environment = {name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ}
        environment["PATH"] = os.pathsep.join((str(Path(found).parent), os.defpath))
        start = {"lean": found, "environment": environment}
        self._pool = Pool("posttrain.scorers.proof_lean:start", num_workers=num_workers, limits=limits, initial=start)

    def close(self) -> None:
        """End the processes; a later `check` starts fresh ones."""
        self._pool.close()

    def check(self, items: Sequence[tuple[Problem, str]]) -> list[Outcome]:
        """Return one outcome for each problem and proof, in order.

        Raises:
            DataError: A problem has no usable statement, or one that Lean itself refuses.
        """
        prepared = [self._prepare(problem, proof) for problem, proof in items]
        jobs = [source for source in prepared if isinstance(source, _Source)]
        answers = iter(self._run([source.text for source in jobs]))
        outcomes = [one if isinstance(one, Outcome) else self._judge(one, next(answers)) for one in prepared]
        self._check_statements([one for one in jobs if one.is_statement_in_doubt])
        return outcomes

    def _prepare(self, problem: Problem, proof: str) -> _Source | Outcome:
        header, statement = problem.columns.get("lean_header", ""), problem.columns.get("lean_statement")
        found = _STATEMENT.fullmatch(statement) if isinstance(statement, str) else None
        if found is None or ":" not in found["rest"] or ":=" in found["rest"] or not isinstance(header, str):
            raise DataError(
                f"'lean_statement' is {statement!r:.80}",
                expected="one theorem without its proof, such as 'theorem t (p : Prop) : p → p'",
                cure="write the statement so, and imports and opens in 'lean_header'",
                place=problem.problem_id,
            )
        refused = find_refused(proof)
        if refused is not None:
            return Outcome("scored", 0.0, why=f"the proof holds {refused}, which is refused")
        return _Source(problem.problem_id, header, str(statement).rstrip(), found["name"], proof)

    def _run(self, texts: list[str]) -> list[Any]:
        try:
            return self._pool.map(texts)
        except SandboxError as error:
            return [JobError("crash", error.found)] * len(texts)

    def _judge(self, source: _Source, answer: Any) -> Outcome:
        if isinstance(answer, JobError):
            if answer.kind in ("timeout", "memory", "output"):
                return Outcome("timed_out", 0.0, why=f"Lean: {answer.found}", fault="policy")
            return Outcome("errored", 0.0, why=f"Lean: {answer.found}", fault="harness")
        status, messages = answer["status"], answer["messages"]
        if status < 0:
            return Outcome("timed_out", 0.0, why=f"Lean was ended by signal {-status}", fault="policy")
        if status and not messages:
            why = f"Lean ended with status {status} and no message: {answer['complaint']}"
            return Outcome("errored", 0.0, why=why, fault="harness")
        errors = [message for message in messages if message["severity"] == "error"]
        if errors:
            line, text = errors[0]["line"], errors[0]["data"]
            source.is_statement_in_doubt = line < source.proof_line
            return Outcome("scored", 0.0, why=f"Lean: line {line - source.proof_line + 1} of the proof: {text[:200]}")
        printed = [message["data"] for message in messages if message["line"] == source.print_line]
        found = _AXIOMS.fullmatch(printed[0]) if len(printed) == 1 else None
        if found is None or not f".{found['name']}".endswith(f".{source.name}"):
            return Outcome("scored", 0.0, why="Lean did not reach the end of the proof")
        axioms = {name.strip() for name in (found["axioms"] or "").split(",")} - {""}
        if axioms - self.allowed_axioms:
            return Outcome("scored", 0.0, why=f"it rests on {', '.join(sorted(axioms - self.allowed_axioms))}")
        return Outcome("scored", 1.0, why="Lean accepts it", parts={"axioms": float(len(axioms))})

    def _check_statements(self, doubtful: list[_Source]) -> None:
        """Raise where a statement itself has an error: one that comes before the proof may be either's."""
        alone = [_Source(one.problem_id, one.header, one.statement, one.name, "sorry") for one in doubtful]
        for source, answer in zip(alone, self._run([source.text for source in alone]), strict=True):
            messages = [] if isinstance(answer, JobError) else answer["messages"]
            errors = [message["data"] for message in messages if message["severity"] == "error"]
            if errors:
                raise DataError(
                    f"Lean refuses the statement: {errors[0][:200]}",
                    expected="a statement that elaborates by itself, with what it imports in 'lean_header'",
                    cure="correct the row, or install what it imports",
                    place=source.problem_id,
                )


class _Source:
    """A whole Lean file, and the lines in it that matter (1 is the first)."""

    def __init__(self, problem_id: str, header: str, statement: str, name: str, proof: str) -> None:
        self.problem_id = problem_id
        self.header, self.statement, self.name = header.rstrip(), statement, name
        self.is_statement_in_doubt = False
        before = f"{self.header}\n\n{statement} :=\n"
        stripped = proof.strip("\n").rstrip().removeprefix(":=").lstrip("\n")
        self.text = f"{before}{_as_term(stripped)}\n\n#print axioms {name}\n"
        self.proof_line = before.count("\n") + 1
        self.print_line = self.text.count("\n")


def _as_term(proof: str) -> str:
    """Return a proof indented below its statement."""
    return "\n".join(f"  {line}" if line.strip() else "" for line in proof.splitlines())


def start(settings: dict[str, Any]) -> Any:
    """Return the function that does a worker's jobs: a file's text in, Lean's messages out."""

    def run(text: str) -> dict[str, Any]:
        done = subprocess.run(
            [settings["lean"], "--stdin", "--json", "-DmaxRecDepth=1000"],
            input=text.encode("utf-8", "surrogatepass"),
            capture_output=True,
            env=settings["environment"],
            check=False,
        )
        return {
            "status": done.returncode,
            "messages": read_messages(done.stdout.decode("utf-8", "replace")),
            "complaint": done.stderr.decode("utf-8", "replace")[:200],
        }

    return run


def read_messages(output: str) -> list[dict[str, Any]]:
    """Return Lean's messages, one a line of JSON; a line that is none is an error of its own."""
    messages = []
    for line in output.splitlines():
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            place, data, severity = content["pos"]["line"], content["data"], content["severity"]
            messages.append({"line": int(place), "data": str(data), "severity": str(severity)})
        except (ValueError, KeyError, TypeError, RecursionError):
            messages.append({"line": 0, "data": f"no message: {line[:100]}", "severity": "error"})
    return messages
