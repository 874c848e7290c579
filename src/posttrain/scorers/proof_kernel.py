"""A kernel for natural deduction: checks a proof line by line, and knows nothing else.

A proof is lines `n. formula  rule refs`, numbered from 1, in Fitch's style: bars before or after the number say how
many subproofs a line is in, and an `assume` line opens one (or, at the same depth, the next one).

    1. P -> Q         premise
    2. ~Q             premise
    3. | P            assume
    4. | Q            ->E 1,3
    5. | false        ~E 4,2
    6. ~P             ~I 3-5

Refs are lines (`4`) and whole subproofs (`3-5`), in the order shown; only what is in scope may be used.

    premise                   one of the task's        assume                    opens a subproof
    R n                       repeats a line           X n                       anything, from false
    &I n,m  &E n              both, either             |I n  |E n,i-j,k-l        either, by cases
    ->I i-j  ->E n,m          n: A -> B, m: A          <->I i-j,k-l  <->E n,m    n: A <-> B, m: either side
    ~I i-j  ~E n,m            i-j ends in false; ~E gives false from A and ~A in any order
    RAA i-j  DNE n            classical: from ~A to false proves A; ~~A gives A
    allI n  allE n            n: A(a) with a fresh     existsI n  existsE n,i-j  i: A(a) with a fresh
    =I  =E n,m                t = t; n: s = t, m: A with some s for t, or t for s

Fresh (the eigenvariable condition): a name that stands in no premise and no open assumption, nor in the formula that is
generalised, nor in what `existsE` concludes. Also read: ∧I ∨E →I ¬E ⊥E ∀I ∃E and so on.

Sound by the usual argument (Gentzen 1935; Prawitz 1965; Fitch 1952): every line follows from the premises and the
assumptions open at it. Subproofs are closed for good once a shallower line or the next `assume` follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from posttrain.scorers.proof_formulas import FALSE, Formula, FormulaError, Term, parse_formula

MAX_LINES = 500
Logic = Literal["classical", "intuitionistic"]
Ref = int | tuple[int, int]
_NUMBERED = re.compile(r"(?P<outer>[|\s]*)(?P<number>\d{1,4})[.):]?(?P<inner>[|\s]*)(?P<rest>.*)")
_REFS = re.compile(r"[\d,\-\u2013]+")
_RULE_NAMES = ("premise", "assume", "R", "X", "&I", "&E", "|I", "|E", "->I", "->E", "<->I", "<->E", "~I", "~E", "RAA",
               "DNE", "allI", "allE", "existsI", "existsE", "=I", "=E")  # fmt: skip
_RULES = {name.casefold(): name for name in _RULE_NAMES} | {
    "assumption": "assume",
    "⊥e": "X",
    "raa": "RAA",
    "dne": "DNE",
}
for _sign, _own in (("∧", "&"), ("∨", "|"), ("→", "->"), ("↔", "<->"), ("¬", "~"), ("∀", "all"), ("∃", "exists")):
    _RULES |= {f"{_sign}i": f"{_own}I", f"{_sign}e": f"{_own}E"}
_CLASSICAL = ("RAA", "DNE")


class ProofError(ValueError):
    """A proof that is refused. `is_form` where it cannot be read, and else it is a step that does not follow."""

    def __init__(self, why: str, *, is_form: bool = False) -> None:
        self.is_form = is_form
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Line:
    """One line; `scope` are the numbers of the `assume` lines of the subproofs that it is in, outermost first."""

    number: int
    formula: Formula
    rule: str
    refs: tuple[Ref, ...]
    scope: tuple[int, ...]


def check_proof(premises: Sequence[Formula], goal: Formula, text: str, *, logic: Logic = "classical") -> int:
    """Return how many lines a proof of the goal from the premises has.

    Raises:
        ProofError: The text is no proof in this format, a step does not follow, or another thing is proved.
    """
    lines = read_proof(text)
    checker = Checker(premises, logic)
    for line in lines:
        try:
            checker.check(line)
        except ProofError as error:
            raise ProofError(f"line {line.number}: {error}") from error
    last = lines[-1]
    if last.scope:
        raise ProofError("the proof ends inside a subproof")
    if last.formula != goal:
        raise ProofError("the last line is not the goal")
    return len(lines)


def read_proof(text: str) -> list[Line]:
    """Return the lines of a proof, none of them checked.

    Raises:
        ProofError: A line is not in the format, or there is none.
    """
    lines: list[Line] = []
    scope: tuple[int, ...] = ()
    for written in text.splitlines():
        if not written.strip(" \t|"):
            continue
        if len(lines) == MAX_LINES:
            raise ProofError(f"more than {MAX_LINES} lines", is_form=True)
        found = _NUMBERED.fullmatch(written)
        if found is None or int(found["number"]) != len(lines) + 1:
            raise ProofError(f"{written.strip()!r:.60} is not line {len(lines) + 1}", is_form=True)
        number = len(lines) + 1
        depth = found["outer"].count("|") + found["inner"].count("|")
        formula_text, rule, refs = _split_rule(found["rest"], number)
        if rule == "assume":
            if not 1 <= depth <= len(scope) + 1:
                raise ProofError(f"line {number}: an assumption in {depth} subproofs after {len(scope)}", is_form=True)
            scope = (*scope[: depth - 1], number)
        elif depth > len(scope):
            raise ProofError(f"line {number}: a subproof that no assumption opens", is_form=True)
        else:
            scope = scope[:depth]
        try:
            lines.append(Line(number, parse_formula(formula_text), rule, refs, scope))
        except FormulaError as error:
            raise ProofError(f"line {number}: {error}", is_form=True) from error
    if not lines:
        raise ProofError("no lines", is_form=True)
    return lines


def _split_rule(rest: str, number: int) -> tuple[str, str, tuple[Ref, ...]]:
    """Read from the right: refs, then the rule; what stands before is the formula."""
    words = rest.split()
    end = len(words)
    while end and _REFS.fullmatch(words[end - 1]):
        end -= 1
    rule = _RULES.get(words[end - 1].casefold()) if end else None
    if rule is None:
        raise ProofError(f"line {number}: no known rule before the refs", is_form=True)
    refs: list[Ref] = []
    for part in filter(None, re.split(r"[,\s]+", " ".join(words[end:]).replace("\u2013", "-"))):
        first, dash, last = part.partition("-")
        if not first.isdigit() or len(part) > 9 or (dash and not last.isdigit()):
            raise ProofError(f"line {number}: {part!r} is no ref", is_form=True)
        refs.append((int(first), int(last)) if dash else int(first))
    return " ".join(words[: end - 1]), rule, tuple(refs)


class Checker:
    """Holds the lines that were accepted; `check` takes one more, with a scope as `read_proof` gives it, or raises."""

    def __init__(self, premises: Sequence[Formula], logic: Logic) -> None:
        self.premises = list(premises)
        self.logic = logic
        self.lines: list[Line] = []

    def check(self, line: Line) -> None:
        """Accept a line, or raise `ProofError` where it does not follow from those before it."""
        if self.logic == "intuitionistic" and line.rule in _CLASSICAL:
            raise ProofError(f"{line.rule} is not intuitionistic")
        if not self._follows(line):
            raise ProofError(f"{line.rule} does not give this from {len(line.refs)} refs")
        self.lines.append(line)

    def _line(self, ref: Ref, line: Line) -> Formula:
        """Return the formula of a line that is in scope."""
        if isinstance(ref, tuple) or not 1 <= ref < line.number:
            raise ProofError(f"{ref} is no line before this one")
        used = self.lines[ref - 1]
        if used.scope != line.scope[: len(used.scope)]:
            raise ProofError(f"line {ref} is in a subproof that is closed")
        return used.formula

    def _subproof(self, ref: Ref, line: Line) -> tuple[Formula, Formula]:
        """Return the assumption and the last formula of a whole closed subproof whose parent is in scope."""
        if isinstance(ref, int) or not 1 <= ref[0] <= ref[1] < line.number:
            raise ProofError(f"{ref} is no subproof before this line")
        first, last = self.lines[ref[0] - 1], self.lines[ref[1] - 1]
        after = self.lines[ref[1]] if ref[1] < len(self.lines) else line
        is_whole = first.rule == "assume" and first.scope == last.scope and first.scope[-1] == ref[0]
        if not is_whole or ref[0] in after.scope:
            raise ProofError(f"{ref[0]}-{ref[1]} is not a whole subproof")
        parent = first.scope[:-1]
        if parent != line.scope[: len(parent)]:
            raise ProofError(f"{ref[0]}-{ref[1]} is inside a subproof that is closed")
        return first.formula, last.formula

    def _is_fresh(self, name: Term | None, line: Line, *formulas: Formula) -> bool:
        """Return whether a term is a name that stands in no open assumption and in none of the formulas."""
        if name is None:
            return True
        opened = [self.lines[number - 1].formula for number in line.scope]
        is_name = name[0] == "name" and not name[2]
        return is_name and not any(name in _walk(formula) for formula in (*self.premises, *opened, *formulas))

    # long: one rule a case, and all of them in one place
    def _follows(self, line: Line) -> bool:
        formula, refs = line.formula, line.refs
        kinds = "".join("n" if isinstance(ref, int) else "s" for ref in refs)
        match line.rule, kinds:
            case "premise", "":
                return formula in self.premises
            case "assume", "":
                return True
            case "=I", "":
                return formula[0] == "=" and formula[1] == formula[2]
            case "R", "n":
                return self._line(refs[0], line) == formula
            case "X", "n":
                return self._line(refs[0], line) == FALSE
            case "&I", "nn":
                return formula == ("and", self._line(refs[0], line), self._line(refs[1], line))
            case "&E", "n":
                both = self._line(refs[0], line)
                return both[0] == "and" and formula in both[1:]
            case "|I", "n":
                return formula[0] == "or" and self._line(refs[0], line) in formula[1:]
            case "|E", "nss":
                either = self._line(refs[0], line)
                cases = (self._subproof(refs[1], line), self._subproof(refs[2], line))
                return either[0] == "or" and cases == ((either[1], formula), (either[2], formula))
            case "->I", "s":
                return formula == ("implies", *self._subproof(refs[0], line))
            case "->E", "nn":
                return self._line(refs[0], line) == ("implies", self._line(refs[1], line), formula)
            case "<->I", "ss":
                there, back = self._subproof(refs[0], line), self._subproof(refs[1], line)
                return there == back[::-1] and formula == ("iff", *there)
            case "<->E", "nn":
                both, side = self._line(refs[0], line), self._line(refs[1], line)
                return both in (("iff", side, formula), ("iff", formula, side))
            case "~I", "s":
                assumed, last = self._subproof(refs[0], line)
                return last == FALSE and formula == ("not", assumed)
            case "~E", "nn":
                left, right = self._line(refs[0], line), self._line(refs[1], line)
                return formula == FALSE and (left == ("not", right) or right == ("not", left))
            case "RAA", "s":
                return self._subproof(refs[0], line) == (("not", formula), FALSE)
            case "DNE", "n":
                return self._line(refs[0], line) == ("not", ("not", formula))
            case "allE", "n":
                whole = self._line(refs[0], line)
                return whole[0] == "forall" and _find_instance(whole[1], formula)[0]
            case "allI", "n":
                if formula[0] != "forall":
                    return False
                is_instance, name = _find_instance(formula[1], self._line(refs[0], line))
                return is_instance and self._is_fresh(name, line, formula)
            case "existsI", "n":
                return formula[0] == "exists" and _find_instance(formula[1], self._line(refs[0], line))[0]
            case "existsE", "ns":
                whole, (assumed, last) = self._line(refs[0], line), self._subproof(refs[1], line)
                if whole[0] != "exists" or last != formula:
                    return False
                is_instance, name = _find_instance(whole[1], assumed)
                return is_instance and self._is_fresh(name, line, whole, formula)
            case "=E", "nn":
                equation, source = self._line(refs[0], line), self._line(refs[1], line)
                if equation[0] != "=":
                    return False
                left, right = equation[1:]
                return _is_replaced(source, formula, left, right) or _is_replaced(source, formula, right, left)
        return False


def _walk(formula: Formula) -> Iterator[object]:
    """Yield every part of a formula: its subformulas and terms."""
    yield formula
    for part in formula:
        if isinstance(part, tuple):
            yield from _walk(part)


def _put(body: Formula, term: Term, depth: int = 0) -> Formula:
    """Return a quantifier's body with a closed term in the place of its variable."""
    if body == ("bound", depth):
        return term
    inner = depth + 1 if body[:1] in (("forall",), ("exists",)) else depth
    return tuple(_put(part, term, inner) if isinstance(part, tuple) else part for part in body)


def _find_instance(body: Formula, formula: Formula) -> tuple[bool, Term | None]:
    """Return whether a formula is a quantifier's body with some closed term in place of the variable, and which.

    The term is None where the variable does not occur. Whatever is found is put in and compared in whole.
    """
    term = _find_term(body, formula, 0)
    if term is None:
        return body == formula, None
    if any(isinstance(part, tuple) and part[:1] == ("bound",) for part in _walk(term)):
        return False, None
    return _put(body, term) == formula, term


def _find_term(body: object, formula: object, depth: int) -> Term | None:
    """Return what stands in a formula where the variable first stands in the body."""
    if body == ("bound", depth):
        return formula if isinstance(formula, tuple) else None
    if not isinstance(body, tuple) or not isinstance(formula, tuple) or len(body) != len(formula):
        return None
    inner = depth + 1 if body[:1] in (("forall",), ("exists",)) else depth
    for part, other in zip(body, formula, strict=True):
        if (term := _find_term(part, other, inner)) is not None:
            return term
    return None


def _is_replaced(source: object, result: object, old: Term, new: Term) -> bool:
    """Return whether a formula is another with some occurrences of one closed term replaced by another."""
    if source == result or (source == old and result == new):
        return True
    if not isinstance(source, tuple) or not isinstance(result, tuple) or len(source) != len(result):
        return False
    return all(_is_replaced(part, other, old, new) for part, other in zip(source, result, strict=True))
