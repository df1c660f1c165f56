"""Split an assert: the sandbox computes what depends on the program, the comparison happens outside.

So no expected value enters the sandbox, and an object of the program decides neither a comparison with a constant nor
the arithmetic of a tolerance: in `abs(f(2) - 1.414) < 0.001` the sandbox computes `f(2)`. A constant is a literal, or
what arithmetic and a few builtins make of literals: `2 + 3`, `10 ** -6`, `max(5, 4)`, `set([1, 2])`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Number
from typing import Any

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
ORDERINGS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": abs, "round": round, "math.fabs": math.fabs}
LARGEST_POWER = 4  # of a value that the program computed
CONSTANT_ARITHMETIC = ARITHMETIC | {ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod}
BUILTINS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (abs, bool, dict, float, frozenset, int, len, list, max, min, round, set, sorted, str, sum, tuple)
}

Values = Sequence[Any]  # of the parts that the sandbox computes
Outside = Callable[[Values], Any]


@dataclass
class Split:
    """The parts of an assert's condition for the sandbox, in order, and `holds`, which takes their values."""

    condition: ast.expr
    parts: list[ast.expr] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._holds = self._condition(self.condition)

    @property
    def expression(self) -> ast.expr:
        """One expression with the values of all parts."""
        return self.parts[0] if len(self.parts) == 1 else ast.Tuple(self.parts, ast.Load())

    def holds(self, value: Any) -> bool:
        """Whether the condition is true, given the value of `expression`. Raises TypeError for what has no order."""
        if len(self.parts) == 1:
            return bool(self._holds([value]))
        return isinstance(value, tuple) and len(value) == len(self.parts) and bool(self._holds(value))

    def _condition(self, node: ast.expr) -> Outside:
        match node:
            case ast.BoolOp(ast.And(), conditions):
                checks = [self._condition(condition) for condition in conditions]
                return lambda values: all(check(values) for check in checks)
            case ast.Compare(left, operators, others) if any(map(is_constant, (left, *others))):
                return self._comparison([left, *others], operators)
            case ast.Call(ast.Attribute(ast.Name("math"), "isclose"), [left, right], bounds) if _is_tolerance(node):
                tolerances = {str(bound.arg): constant(bound.value) for bound in bounds}
                sides = self._number(left), self._number(right)
                return lambda values: math.isclose(*(side(values) for side in sides), **tolerances)
            case ast.UnaryOp(ast.Not(), ast.Compare(left, _, others) as inner) if any(
                map(is_constant, (left, *others))
            ):
                is_true = self._condition(inner)
                return lambda values: not is_true(values)
            case ast.UnaryOp(ast.Not(), operand):
                value = self._part(_truth(operand))
                return lambda values: value(values) is False
        value = self._part(_truth(node))
        return lambda values: value(values) is True

    def _comparison(self, operands: list[ast.expr], operators: list[ast.cmpop]) -> Outside:
        is_ordering = any(isinstance(sign, ORDERINGS) for sign in operators)
        is_of_numbers = is_ordering or any(_is_zero(operand) or _is_rounded(operand) for operand in operands)
        sides = [self._number(operand) if is_of_numbers else self._value(operand) for operand in operands]
        pairs = [(COMPARISONS[type(sign)], sides[i], sides[i + 1]) for i, sign in enumerate(operators)]
        return lambda values: all(compare(left(values), right(values)) for compare, left, right in pairs)

    def _number(self, node: ast.expr) -> Outside:
        """Like _value; the arithmetic around a part is done outside where it has a literal number."""
        has_number = _is_rounded(node) or any(_is_number(inner) for inner in _arithmetic_leaves(node))
        if is_constant(node) or not has_number:
            return self._value(node)
        calculate: Callable[..., Any]
        match node:
            case ast.BinOp(left, ast.Pow(), right):
                calculate, operands = operator.pow, [self._number(left), self._value(right)]
            case ast.BinOp(left, sign, right):
                calculate, operands = ARITHMETIC[type(sign)], [self._number(left), self._number(right)]
            case ast.UnaryOp(ast.USub(), operand):
                calculate, operands = operator.neg, [self._number(operand)]
            case ast.Call(function, arguments):
                calculate, operands = FUNCTIONS[ast.unparse(function)], [self._number(each) for each in arguments]
            case _:
                raise AssertionError(ast.dump(node))
        return lambda values: calculate(*map(_checked, (operand(values) for operand in operands)))

    def _value(self, node: ast.expr) -> Outside:
        if is_constant(node):
            value = constant(node)
            return lambda _: value
        return self._part(node)

    def _part(self, node: ast.expr) -> Outside:
        at = len(self.parts)
        self.parts.append(node)
        return lambda values: values[at]


def with_numbers(before: Sequence[ast.stmt], condition: ast.expr) -> tuple[list[ast.stmt], ast.expr]:
    """The condition with each name that a line before it sets to a number, such as `tolerance = 1e-3`, replaced by
    that number; and the lines that are still needed."""
    nodes = [node for part in (*before, condition) for node in ast.walk(part)]
    bound = Counter(node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load))
    bound.update(node.arg for node in nodes if isinstance(node, ast.arg))
    numbers: dict[str, ast.expr] = {}
    for line in before:
        match line:
            case ast.Assign([ast.Name(name)], value) if bound[name] == 1 and _is_number(value):
                numbers[name] = value
    in_lines = [node for line in before for node in ast.walk(line) if isinstance(node, ast.Name)]
    needed = {node.id for node in in_lines if isinstance(node.ctx, ast.Load)}
    spare = {id(numbers[name]) for name in numbers.keys() - needed}
    lines = [line for line in before if not (isinstance(line, ast.Assign) and id(line.value) in spare)]
    return lines, _Numbers(numbers).visit(condition)


@dataclass
class _Numbers(ast.NodeTransformer):
    """Puts `numbers` in place of their names."""

    numbers: Mapping[str, ast.expr]

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.numbers.get(node.id, node)


def is_constant(node: ast.expr) -> bool:
    try:
        constant(node)
    except (ValueError, TypeError, ArithmeticError, LookupError):
        return False
    return True


def constant(node: ast.expr) -> Any:
    """The value of a literal, or of arithmetic and builtins over literals. Raises ValueError for what needs a program,
    and what the arithmetic or the builtin raises."""
    match node:
        case ast.BinOp(left, ast.Pow(), right):
            base, exponent = constant(left), constant(right)
            if not (isinstance(base, int | float) and isinstance(exponent, int) and abs(exponent) <= 308):
                raise ValueError("not a small power of a number")
            return base**exponent
        case ast.BinOp(left, sign, right) if type(sign) in CONSTANT_ARITHMETIC:
            numbers = constant(left), constant(right)
            if not all(isinstance(number, int | float | complex) for number in numbers):
                raise ValueError("not the arithmetic of numbers")
            return CONSTANT_ARITHMETIC[type(sign)](*numbers)
        case ast.UnaryOp(ast.USub(), operand):
            return -constant(operand)
        case ast.Call(ast.Name(name), arguments, []) if name in BUILTINS:
            return BUILTINS[name](*map(constant, arguments))
    return ast.literal_eval(node)


def _arithmetic_leaves(node: ast.expr) -> list[ast.expr]:
    """The operands below the arithmetic that `_number` does; only `node` itself where it does none."""
    match node:
        case ast.BinOp(left, ast.Pow(), right) if _is_number(right) and abs(constant(right)) <= LARGEST_POWER:
            return [*_arithmetic_leaves(left), right]
        case ast.BinOp(left, sign, right) if type(sign) in ARITHMETIC:
            return [*_arithmetic_leaves(left), *_arithmetic_leaves(right)]
        case ast.UnaryOp(ast.USub(), operand):
            return _arithmetic_leaves(operand)
        case ast.Call(function, [first, *_], []) if ast.unparse(function) in FUNCTIONS and not is_constant(first):
            return _arithmetic_leaves(first)
    return [node]


def _is_number(node: ast.expr) -> bool:
    return is_constant(node) and type(constant(node)) in (int, float)


def _is_zero(node: ast.expr) -> bool:
    return _is_number(node) and constant(node) == 0


def _is_rounded(node: ast.expr) -> bool:
    """Whether it is a value of the program, rounded to a literal number of places."""
    match node:
        case ast.Call(ast.Name("round"), [first, *places], []):
            return not is_constant(first) and all(map(_is_number, places))
    return False


def _is_tolerance(call: ast.Call) -> bool:
    """Whether math.isclose compares a literal with something else, with literal tolerances."""
    bounds = all(bound.arg in ("rel_tol", "abs_tol") and _is_number(bound.value) for bound in call.keywords)
    return bounds and sum(map(is_constant, call.args)) == 1


def _checked(value: Any) -> Any:
    if not isinstance(value, Number | Decimal):
        raise TypeError(f"a {type(value).__name__} is not a number")
    return value


def _truth(node: ast.expr) -> ast.expr:
    """`not not node`: its truth value, even if the program redefines bool."""
    return ast.UnaryOp(ast.Not(), ast.UnaryOp(ast.Not(), node))
