"""Expressions of tests, evaluated outside every sandbox on what a program returned.

An expression holds calls of the program and, around them, constants, arithmetic, comparisons and a closed list of
functions of the standard library that run no code of their arguments: `abs(f(3) - 0.5) < 1e-6`,
`set(f([1])) == {1}`, `math.isclose(f(2), 1.4, rel_tol=0.01)`. Values are plain data of exact built-in types, and
operators mean what they mean in Python: the test's author wrote them. Arguments are constants; where they are not,
but use nothing that the test defines (`f([Pair(1, 2)])`, `f(g(3))`, `f(lambda x: x + 1)`, `Stack().push(1)`), the
whole call is evaluated beside the program, as what it is given it may see.

Anything else is `NotRewritableError`: such a test runs in a sandbox of its own (`code_scripts`).
"""

from __future__ import annotations

import ast
import builtins
import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.scorers.code_arithmetic import BINARY_OPERATORS, FUNCTIONS, TooLargeError
from posttrain.scorers.code_comparison import is_plain
from posttrain.scorers.code_judging import is_sendable

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (abs, all, any, bool, bytes, complex, dict, divmod, float, frozenset, int, isinstance, len, list)
} | {
    function.__name__: function
    for function in (max, min, reversed, set, sorted, str, sum, tuple)
} | FUNCTIONS  # fmt: skip
_BUILTINS = frozenset(dir(builtins))
_TYPES = ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")
_KEYWORDS = {"round": ("ndigits",), "sorted": ("reverse",), "isclose": ("rel_tol", "abs_tol")}
_MATH = ("isclose", "fabs", "isnan", "isinf", "isfinite", "sqrt", "floor", "ceil", "trunc", "sin", "cos", "tan",
         "exp", "log", "log2", "log10", "degrees", "radians", "hypot", "atan2")  # fmt: skip
_MATH_CONSTANTS = ("pi", "e", "tau", "inf", "nan")
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.is_, ast.IsNot: operator.is_not,
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip


class NotRewritableError(Exception):
    """An expression that is not evaluated outside a sandbox."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the program with plain data: `function` is an expression in the program.

    Examples: `f`, `Solution().f`, `(lambda: f([Pair(1, 2)]))` for a call whose arguments are no plain data.
    """

    function: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


Read = Callable[[int], Any]
"""Gives the value of the expression's i-th call, or raises what stands in its place."""
Evaluate = Callable[[Read], Any]


@dataclass(frozen=True, slots=True)
class Expression:
    """A test's expression, made ready: `evaluate(read)` gives its value from those of its `calls`.

    `text` is its source, and `text_of_answers` the same with `answer__(i)` in the place of its i-th call.
    """

    text: str
    text_of_answers: str
    calls: tuple[Call, ...]
    evaluate: Evaluate


def build_expression(node: ast.expr, functions: Mapping[str, str]) -> Expression:
    """Return an expression over calls of the program.

    Args:
        node: Its syntax tree.
        functions: Names that stand for functions of the program, and the expression of each in the program.

    Raises:
        NotRewritableError: It holds more than this file evaluates.
    """
    builder = _Builder(functions)
    try:
        evaluate = builder.build(node)
    except RecursionError as error:
        raise NotRewritableError("nested too deeply") from error
    text = ast.unparse(node)
    replaced = _Replacer(builder.nodes).visit(node) if builder.calls else node
    return Expression(text, ast.unparse(ast.fix_missing_locations(replaced)), tuple(builder.calls), evaluate)


class _Builder:
    """Turns nodes into functions, and collects the calls of the program on the way."""

    def __init__(self, functions: Mapping[str, str]) -> None:
        self.functions = functions
        self.calls: list[Call] = []
        self.nodes: list[ast.expr] = []

    def build(self, node: ast.expr) -> Evaluate:
        build = getattr(self, f"_build_{type(node).__name__.lower()}", None)
        if build is None:
            raise NotRewritableError(f"{type(node).__name__} is not evaluated here")
        evaluate: Evaluate = build(node)
        return evaluate

    def _build_all(self, nodes: Sequence[ast.expr]) -> list[Evaluate]:
        return [self.build(node) for node in nodes]

    def _build_constant(self, node: ast.Constant) -> Evaluate:
        if not is_plain(node.value):
            raise NotRewritableError("an ellipsis")
        return lambda read: node.value

    def _build_list(self, node: ast.List) -> Evaluate:
        items = self._build_all(node.elts)
        return lambda read: [item(read) for item in items]

    def _build_tuple(self, node: ast.Tuple) -> Evaluate:
        items = self._build_all(node.elts)
        return lambda read: tuple([item(read) for item in items])

    def _build_set(self, node: ast.Set) -> Evaluate:
        items = self._build_all(node.elts)
        return lambda read: {item(read) for item in items}

    def _build_dict(self, node: ast.Dict) -> Evaluate:
        keys = self._build_all([_require(key) for key in node.keys])
        values = self._build_all(node.values)
        return lambda read: {key(read): value(read) for key, value in zip(keys, values, strict=True)}

    def _build_unaryop(self, node: ast.UnaryOp) -> Evaluate:
        operate, operand = _UNARY[type(node.op)], self.build(node.operand)
        return lambda read: operate(operand(read))

    def _build_binop(self, node: ast.BinOp) -> Evaluate:
        operate = BINARY_OPERATORS.get(type(node.op))
        if operate is None:
            raise NotRewritableError(f"{type(node.op).__name__} is not evaluated here")
        left, right = self.build(node.left), self.build(node.right)
        return lambda read: operate(left(read), right(read))

    def _build_boolop(self, node: ast.BoolOp) -> Evaluate:
        values = self._build_all(node.values)
        is_and = isinstance(node.op, ast.And)

        def evaluate(read: Read) -> Any:
            result = None
            for value in values:
                result = value(read)
                if bool(result) is not is_and:
                    break
            return result

        return evaluate

    def _build_compare(self, node: ast.Compare) -> Evaluate:
        operands = [node.left, *node.comparators]
        for number, operation in enumerate(node.ops):
            sides = operands[number : number + 2]
            if isinstance(operation, ast.Is | ast.IsNot) and not any(map(_is_singleton, sides)):
                raise NotRewritableError("identity of values that are rebuilt means nothing")
        values = self._build_all(operands)
        operations = [_COMPARISONS[type(operation)] for operation in node.ops]

        def evaluate(read: Read) -> Any:
            left, result = values[0](read), True
            for operate, value in zip(operations, values[1:], strict=True):
                right = value(read)
                result = operate(left, right)
                if not result:
                    break
                left = right
            return result

        return evaluate

    def _build_subscript(self, node: ast.Subscript) -> Evaluate:
        value, index = self.build(node.value), self.build(node.slice)
        return lambda read: value(read)[index(read)]

    def _build_slice(self, node: ast.Slice) -> Evaluate:
        parts = [
            (lambda read: None) if part is None else self.build(part) for part in (node.lower, node.upper, node.step)
        ]
        return lambda read: slice(*(part(read) for part in parts))

    def _build_name(self, node: ast.Name) -> Evaluate:
        if node.id in self.functions or node.id not in _TYPES:
            raise NotRewritableError(f"the name {node.id}")
        return lambda read: _FUNCTIONS[node.id]

    def _build_attribute(self, node: ast.Attribute) -> Evaluate:
        if self._is_of_program(node):
            return self._note_call(node, self._wrap(node))
        if not _is_math(node, self.functions) or node.attr not in _MATH_CONSTANTS:
            raise NotRewritableError(f"the attribute {node.attr}")
        value = getattr(math, node.attr)
        return lambda read: value

    def _build_call(self, node: ast.Call) -> Evaluate:
        if self._is_of_program(node):
            return self._note_call(node, self._read_call(node))
        function: Callable[..., Any]
        if isinstance(node.func, ast.Attribute) and _is_math(node.func, self.functions) and node.func.attr in _MATH:
            name, function = node.func.attr, getattr(math, node.func.attr)
        elif isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            name, function = node.func.id, _FUNCTIONS[node.func.id]
        else:
            raise NotRewritableError(f"a call of {ast.unparse(node.func)}")
        args = self._build_all(node.args)
        named = {_require(keyword.arg): self.build(keyword.value) for keyword in node.keywords}
        if set(named) - set(_KEYWORDS.get(name, ())):
            raise NotRewritableError(f"a keyword of {name}")
        return lambda read: function(*(a(read) for a in args), **{key: value(read) for key, value in named.items()})

    def _note_call(self, node: ast.expr, call: Call) -> Evaluate:
        self.calls.append(call)
        self.nodes.append(node)
        number = len(self.calls) - 1
        return lambda read: read(number)

    def _is_of_program(self, node: ast.expr) -> bool:
        """Return whether a call, or a chain that begins with one, is the program's own work.

        `f(2)` is, and so is `Stack().push(1)`: a class of the program, by its capital letter. In `f(2).startswith("a")`
        the method belongs to the value that `f` should return, and an object that the program made for the purpose
        would answer as it likes: such a test stays code and sees plain data alone.
        """
        is_chain = not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
        while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
            node = node.func if isinstance(node, ast.Call) else node.value
        return isinstance(node, ast.Name) and node.id in self.functions and (not is_chain or node.id[:1].isupper())

    def _read_call(self, node: ast.Call) -> Call:
        if not isinstance(node.func, ast.Name):
            return self._wrap(node)
        try:
            args = tuple(self._evaluate_constant(argument) for argument in node.args)
            kwargs = {_require(keyword.arg): self._evaluate_constant(keyword.value) for keyword in node.keywords}
        except NotRewritableError:
            return self._wrap(node)
        return Call(self.functions[node.func.id], args, kwargs)

    def _evaluate_constant(self, node: ast.expr) -> Any:
        """Return the value of an argument, in which no call of the program may stand."""
        builder = _Builder(self.functions)
        try:
            value = builder.build(node)(_refuse_to_read)
        except (ArithmeticError, LookupError, TypeError, ValueError, TooLargeError) as error:
            raise NotRewritableError(str(error)) from error
        if builder.calls or not (is_plain(value) and is_sendable(value)):
            raise NotRewritableError(f"an argument that is no constant: {ast.unparse(node)}")
        return value

    def _wrap(self, node: ast.expr) -> Call:
        """Return a whole call as a function of nothing, where it uses the program and built-ins alone."""
        names = [inner for inner in ast.walk(node) if isinstance(inner, ast.Name)]
        own = {inner.id for inner in names if not isinstance(inner.ctx, ast.Load)}
        own |= {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)}
        foreign = {inner.id for inner in names} - own - set(self.functions) - _BUILTINS
        if foreign or own & set(self.functions) or not any(isinstance(inner, ast.Call) for inner in ast.walk(node)):
            raise NotRewritableError(f"names that only the test knows: {ast.unparse(node)}")
        expression = _Renamer(self.functions).visit(copy.deepcopy(node))
        return Call(f"(lambda: {ast.unparse(ast.fix_missing_locations(expression))})", (), {})


class _Renamer(ast.NodeTransformer):
    """Writes the names of the program's functions as the program knows them."""

    def __init__(self, functions: Mapping[str, str]) -> None:
        self.functions = functions

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Return the expression that a name stands for."""
        return ast.parse(self.functions.get(node.id, node.id), mode="eval").body


class _Replacer(ast.NodeTransformer):
    """Writes calls of the program as `answer__(i)`, in place."""

    def __init__(self, nodes: Sequence[ast.expr]) -> None:
        self.numbers = {id(node): number for number, node in enumerate(nodes)}

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Return the call's stand-in, or the node with its parts replaced."""
        number = self.numbers.get(id(node))
        if number is not None:
            return ast.Call(ast.Name("answer__", ast.Load()), [ast.Constant(number)], [])
        return super().generic_visit(node)


def _refuse_to_read(number: int) -> Any:
    raise NotRewritableError("a call inside the arguments of a call")


def _require(part: Any) -> Any:
    if part is None:
        raise NotRewritableError("an unpacked mapping")
    return part


def _is_singleton(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))


def _is_math(node: ast.Attribute, functions: Mapping[str, str]) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "math" and "math" not in functions
