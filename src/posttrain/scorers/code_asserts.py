"""Tests written as code, taken apart: assertions that can be judged outside every sandbox, and the rest.

An assertion over calls of the program with constant arguments becomes an expression (`code_expressions`). What is
left over (loops, random inputs, helper functions, `try`) stays code and is judged as such (`code_scripts`).
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable, Mapping, Sequence

from posttrain.scorers.code_expressions import NotRewritableError, build_expression
from posttrain.scorers.code_judging import CodeTest
from posttrain.scorers.code_programs import PromptCode, parse_python
from posttrain.scorers.code_scripts import ScriptTest
from posttrain.scorers.code_tests import AssertTest

_BUILTINS = frozenset(dir(builtins))
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
           ast.GeneratorExp)  # fmt: skip
_LEAVES = (ast.Return, ast.Raise, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal, ast.Delete)


class TestCodeError(ValueError):
    """Test code that cannot be used: what was found."""

    __test__ = False  # no test of pytest's


def build_assert_tests(setup: str, asserts: Sequence[str], functions: Mapping[str, str], seed: int) -> list[CodeTest]:
    """Return one test for each text of test code.

    Args:
        setup: Code that every test needs (imports, functions); it runs beside the tests, never beside the program.
            Modules of the standard library that the tests name need no import.
        asserts: Texts of test code, mostly one assertion each.
        functions: Names that are known to be the program's functions, beside those that the tests use and nothing
            defines.
        seed: Seeds `random` in tests that stay code.

    Raises:
        TestCodeError: No Python, or a test that uses no function of the program.
    """
    setup_tree = _parse(setup, "the setup")
    trees = [_parse(text, f"test {number}") for number, text in enumerate(asserts, 1)]
    functions = {**find_functions(setup_tree, trees, functions), **functions}
    bound = _find_bound(setup_tree.body)
    missing = _find_modules(trees) - _find_bound([setup_tree, *trees], is_deep=True) - set(functions)
    setup = "\n".join([setup, *(f"import {name}" for name in sorted(missing))])
    tests: list[CodeTest] = []
    for number, (text, tree) in enumerate(zip(asserts, trees, strict=True), 1):
        if not _find_used([tree]) & set(functions):
            raise TestCodeError(f"test {number} calls no function of the program: {text[:100]!r}")
        script = ScriptTest(setup, text, functions, seed=seed)
        tests.append(_rewrite(tree.body, functions, bound) or script)
    return tests


def build_check_tests(test: str, entry: str, prompt: PromptCode | None, seed: int) -> list[CodeTest]:
    """Return the tests of a function `check(candidate)` (HumanEval): its assertions, and one for what is left.

    Args:
        test: Code that defines `check`.
        entry: The function asked for, or a method (`Solution().f`).
        prompt: The code of the prompt, whose other functions the tests may use.
        seed: Seeds `random` in tests that stay code.

    Raises:
        TestCodeError: No Python, no `check` of one argument, or none that uses its argument.
    """
    tree = _parse(test, "'test'")
    tree.body = [statement for statement in tree.body if not _is_check_call(statement)]
    checks = [s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == "check"]
    if len(checks) != 1 or len(checks[0].args.args) != 1:
        raise TestCodeError("'test' defines no function check(candidate) of one argument")
    check = checks[0]
    candidate = check.args.args[0].arg
    functions = {candidate: entry, **({entry: entry} if entry.isidentifier() else {})}
    tests: list[CodeTest] = []
    setup = "" if prompt is None else prompt.stub
    if not any(isinstance(node, _LEAVES) for node in ast.walk(check)):
        bound = _find_bound([*_parse(setup, "the prompt").body, *tree.body, *check.body])
        kept: list[ast.stmt] = []
        for statement in check.body:
            rewritten = _rewrite([statement], functions, bound - {entry})
            if rewritten is None:
                kept.append(statement)
            else:
                tests.append(rewritten)
        check.body = kept or [ast.Pass()]
    if _find_used(tree.body) & set(functions):
        tests.append(ScriptTest(setup, ast.unparse(tree), functions, candidate, seed))
    if not tests:
        raise TestCodeError("'test' never calls the program")
    return tests


def find_functions(setup: ast.Module, tests: Sequence[ast.Module], known: Mapping[str, str]) -> dict[str, str]:
    """Return the names that tests use and nothing defines: the program's functions.

    Where there are none, nor `known` ones, a function that every assertion calls on its left side is meant, though
    its name is a built-in's too (`assert sum(10, 15) == 6`).
    """
    modules = [setup, *tests]
    free = _find_used(modules) - _find_bound(modules, is_deep=True) - _BUILTINS - _find_modules(modules)
    free -= set(known)
    if not free and not known:
        called = {_find_left_call(tree) for tree in tests}
        free = {name for name in called if name is not None} if len(called) == 1 else set()
    if not free and not known:
        raise TestCodeError("the tests call no function that the program could define")
    return {name: name for name in sorted(free)}


def _rewrite(statements: Sequence[ast.stmt], functions: Mapping[str, str], bound: set[str]) -> AssertTest | None:
    """Return one assertion as an expression, or None where it stays code."""
    if len(statements) != 1 or not isinstance(statements[0], ast.Assert):
        return None
    node = statements[0].test
    if _find_used([node]) & bound:
        return None
    try:
        expression = build_expression(node, functions)
    except NotRewritableError:
        return None
    return AssertTest(expression) if expression.calls else None


def _find_used(nodes: Iterable[ast.AST]) -> set[str]:
    walked = (inner for node in nodes for inner in ast.walk(node))
    return {node.id for node in walked if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _find_bound(nodes: Iterable[ast.AST], *, is_deep: bool = False) -> set[str]:
    """Return the names that code gives a meaning, those inside functions, classes and comprehensions too if `is_deep`.

    Unless `is_deep`, a plain `import math` does not count: it gives `math` no other meaning than it has here.
    """
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            is_math = isinstance(node, ast.Import) and all(alias.asname is None for alias in node.names)
            found |= names - ({"math"} if is_math and not is_deep else set())
        if is_deep or not isinstance(node, _SCOPES):
            waiting += ast.iter_child_nodes(node)
    return found


def _find_modules(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the modules of the standard library that code names as such (`sys.maxsize`)."""
    walked = [inner for node in nodes for inner in ast.walk(node)]
    as_owners = [n.value.id for n in walked if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    return {name for name in as_owners if name in sys.stdlib_module_names}


def _find_left_call(tree: ast.Module) -> str | None:
    node: ast.AST = tree.body[0].test if tree.body and isinstance(tree.body[0], ast.Assert) else tree
    while isinstance(node, ast.Compare | ast.UnaryOp):
        node = node.left if isinstance(node, ast.Compare) else node.operand
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def _is_check_call(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Name)
        and statement.value.func.id == "check"
    )


def _parse(text: str, what: str) -> ast.Module:
    tree = parse_python(text)
    if tree is None:
        raise TestCodeError(f"{what} is no Python: {text[:100]!r}")
    return tree
