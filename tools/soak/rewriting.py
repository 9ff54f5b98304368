"""What is changed in the syntax tree of a kernel, so that Python runs it as the compiler would have, and fast enough.

    a + b, a - b, a * b, a << b, -a    what int64 arithmetic leaves of them
    byte_at(text, position)            the byte of the frame at hand; a place outside it raises IndexError
    while test: ...                    each turn is one of those that the frame allows; EndlessLoop when none is left
    every way that a kernel can take   is counted (bodies, what is left out when a test fails) or noted (each further
                                       operand of `and` and `or`, what a conditional expression chooses)

The interpreted module must hold what stands for this: _wrapped, _bytes, _turns, _endless, _counts and _note. Cost:
some 30 ns for a count, a note, a turn or a sum. Known limits: the test of a `while` is one way, whatever
it is made of, and a `while` with an `else` is refused.
"""

from __future__ import annotations

import ast
from typing import Any

_LEAST, _MOST, _SPAN = -(1 << 63), (1 << 63) - 1, 1 << 64
_WRAPPING = ast.Add | ast.Sub | ast.Mult | ast.LShift
_LEAVING = ast.Return | ast.Raise | ast.Break | ast.Continue
# Kernels that are run for every byte, word or record: what they met shows in their callers.
NOT_COUNTED = ("byte_at", "skip_space", "string_end", "name_index", "write_row", "remember", "stamp")


def wrapped(value: Any) -> Any:
    """An integer as int64 arithmetic leaves it; floats pass."""
    if _LEAST <= value <= _MOST or isinstance(value, float):
        return value
    return (value - _LEAST) % _SPAN + _LEAST


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(_name(name), list(arguments), [])


def _wrap(value: ast.expr) -> ast.expr:
    """`_sum if least <= (_sum := value) <= most else _wrapped(_sum)`"""
    noted = ast.NamedExpr(ast.Name("_sum", ast.Store()), value)
    fits = ast.Compare(ast.Constant(_LEAST), [ast.LtE(), ast.LtE()], [noted, ast.Constant(_MOST)])
    return ast.IfExp(fits, _name("_sum"), _call("_wrapped", _name("_sum")))


class Rewriting(ast.NodeTransformer):
    """Rewrites the kernels that it is given, one after another.

    `counts` grows by a place for each way: what is counted is counted there, what is noted is noted by that place.
    """

    def __init__(self, counts: list[int]) -> None:
        self._counts = counts
        self._counting = False

    def kernel(self, function: ast.FunctionDef) -> None:
        """Rewrite a kernel in its place. Raises ValueError for a loop that it cannot bound."""
        self._counting = function.name not in NOT_COUNTED
        self.generic_visit(function)
        function.body = self._counted(function.body)

    def _place(self) -> ast.Constant:
        self._counts.append(0)
        return ast.Constant(len(self._counts) - 1)

    def _counted(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """The statements, with a count of how often they were come to before them."""
        if not self._counting:
            return body
        place = ast.Subscript(_name("_counts"), self._place(), ast.Store())
        return [ast.AugAssign(place, ast.Add(), ast.Constant(1)), *body]

    def _noted(self, value: ast.expr) -> ast.expr:
        """`not _note(place) and value`, where the call gives None: the value."""
        if not self._counting:
            return value
        return ast.BoolOp(ast.And(), [ast.UnaryOp(ast.Not(), _call("_note", self._place())), value])

    def visit_If(self, node: ast.If) -> ast.AST:
        """Both ways of it are counted."""
        self.generic_visit(node)
        node.body = self._counted(node.body)
        if node.orelse or not isinstance(node.body[-1], _LEAVING):
            node.orelse = self._counted(node.orelse)
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        """Its turns are counted."""
        self.generic_visit(node)
        node.body = self._counted(node.body)
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        """Its turns are counted, and are some of those that the frame allows."""
        if node.orelse:
            raise ValueError(f"line {node.lineno}: a while with an else")
        counting, self._counting = self._counting, False
        test = self.visit(node.test)
        self._counting = counting
        body = self._counted([self.visit(item) for item in node.body])
        leave = ast.If(ast.UnaryOp(ast.Not(), test), [ast.Break()], [])
        none_left: list[ast.stmt] = [ast.Expr(_call("_endless"))]
        return ast.For(ast.Name("_turn", ast.Store()), _name("_turns"), [leave, *body], none_left)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Each operand but the first is noted."""
        self.generic_visit(node)
        node.values = [node.values[0], *map(self._noted, node.values[1:])]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """What is chosen where the test holds is noted."""
        self.generic_visit(node)
        node.body = self._noted(node.body)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Sums, products and shifts wrap."""
        self.generic_visit(node)
        return _wrap(node) if isinstance(node.op, _WRAPPING) else node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """A minus wraps."""
        self.generic_visit(node)
        return _wrap(node) if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        """Sums, products and shifts of a variable wrap."""
        self.generic_visit(node)
        if not isinstance(node.target, ast.Name) or not isinstance(node.op, _WRAPPING):
            return node  # a field of a record holds what fits and raises otherwise
        return ast.Assign([node.target], _wrap(ast.BinOp(_name(node.target.id), node.op, node.value)))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`byte_at` becomes a subscript."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "byte_at":
            return ast.Subscript(_name("_bytes"), node.args[1], ast.Load())
        return node
