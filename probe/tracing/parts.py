"""Finds the parts of a decoder block, attention and MLP, by following the hidden states through the source of its forward.

No forward runs. What a forward returns is followed back to the modules whose outputs were added up on the way.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from torch import nn

_Term = tuple[str, ...]
"""The modules that a tensor came through one after the other; (): it is the forward's own first argument."""

_Value = tuple[_Term, ...]
"""The tensors that were added up, or multiplied by something, to give a value; (): none that is followed."""

_STREAM: _Term = ()
_BLOCK = "*"
_HEADS = ("num_heads", "num_attention_heads", "n_heads")


@dataclass(frozen=True)
class BlockParts:
    """Where the parts of one decoder block are: module paths. None: the block has no such part, or it cannot be found.

    The output of a module is the first of those it returns; some blocks flatten (batch, token) before a part, and back behind it.
    A block's output is `residual * f0 + attention * f1 + mlp * f2`, with `others` added as attention is: see `Backbone.residual_factors`.

    Attributes:
        attention: the module whose output the block adds to the residual stream for its attention: the attention module itself, or the
            norm behind it where the block norms what attention gives before it adds it.
        mlp: the same for the MLP, or for the experts (the block's sum of routed and shared experts).
        projection: the attention's output projection, whose input holds the heads' outputs one after the other.
        heads: how many query heads that input holds; 0 if there is no projection.
        others: what else the block adds: a linear mixer in place of attention, cross-attention beside it, inputs of its own.
    """

    attention: str | None = None
    mlp: str | None = None
    projection: str | None = None
    heads: int = 0
    others: tuple[str, ...] = ()


def block_parts(path: str, block: nn.Module, attention: str | None, declared: Mapping[str, str]) -> BlockParts:
    """The parts of a decoder block.

    Args:
        path: of the block in its model.
        attention: the path of its attention module; None: it has none.
        declared: `Backbone.part_paths`.
    """
    inner = None if attention is None else attention.removeprefix(f"{path}.")
    found = _added(block, inner) if not declared else _declared(block, inner, declared)
    projection = None if inner is None else declared.get("projection") or _projection(block, inner)
    return BlockParts(
        attention=_joined(path, found.attention),
        mlp=_joined(path, found.mlp),
        projection=_joined(path, projection),
        heads=_heads(block.get_submodule(inner)) if inner and projection else 0,
        others=tuple(f"{path}.{other}" for other in found.others),
    )


def final_norm(decoder: nn.Module) -> str | None:
    """The path in a decoder of the norm that the last block's output goes through; None: there is none."""
    for term in followed(decoder):
        behind = term[term.index(_BLOCK) + 1 :] if _BLOCK in term else ()
        norms = [path for path in behind if "norm" in f"{path} {type(decoder.get_submodule(path)).__name__}".lower()]
        if norms:
            return norms[-1]
    return None


def changed_between_blocks(decoder: nn.Module) -> bool:
    """Whether a decoder changes the states on their way from a block to the next, as by adding features of the image to them."""
    function = _source(decoder)
    loops = [node for node in ast.walk(function) if isinstance(node, ast.For)] if function else []
    return any(_changes_states(loop) for loop in loops)


def _changes_states(loop: ast.For) -> bool:
    """Whether a loop over blocks assigns what it passes to them, by anything but a block's call or another name for its output."""
    calls = [node for node in ast.walk(loop) if isinstance(node, ast.Call) and ast.unparse(node.func) in _names(loop.target)]
    states = {name for call in calls for argument in _arguments(call)[:1] for name in _names(argument)}
    assigned = [node for node in ast.walk(loop) if isinstance(node, ast.Assign) and {*map(ast.unparse, node.targets)} & states]
    return any(isinstance(node.value, ast.Call | ast.BinOp) and node.value not in calls for node in assigned)


def _names(node: ast.AST) -> list[str]:
    return [name.id for name in ast.walk(node) if isinstance(name, ast.Name)]


def _added(block: nn.Module, attention: str | None) -> BlockParts:
    """The parts that a block adds to its input; none if what it returns is not its input and something added."""
    terms = followed(block)
    if _STREAM not in terms:
        return BlockParts()
    terms = tuple(term for term in terms if term != _STREAM)
    ours = [term[-1] for term in terms if attention is not None and _leads_to(term, attention)]
    if attention is not None and not ours:
        return BlockParts()
    rest = [term for term in terms if term[-1] not in ours]
    mixing = [term[-1] for term in rest if any(_mixes_tokens(block.get_submodule(path)) for path in term)]
    local = [term[-1] for term in rest if term[-1] not in mixing]
    return BlockParts(next(iter(ours), None), next(iter(local), None), others=(*mixing, *local[1:]))


def _declared(block: nn.Module, attention: str | None, declared: Mapping[str, str]) -> BlockParts:
    """The declared parts that the block has. What is declared as attention mixes tokens in blocks that have none."""
    here = {part: path for part, path in declared.items() if _has(block, path)}
    others = tuple(path for part, path in here.items() if part not in ("attention", "mlp", "projection"))
    first, mlp = here.get("attention"), here.get("mlp")
    if attention is None:
        return BlockParts(None, mlp, others=(first, *others) if first else others)
    return BlockParts(first, mlp, others=others)


def _leads_to(term: _Term, attention: str) -> bool:
    return any(f"{attention}.".startswith(f"{path}.") for path in term)


def _mixes_tokens(module: nn.Module) -> bool:
    """Whether a module gets a mask over the tokens, as attention and linear mixers do and an MLP does not."""
    return "attention_mask" in inspect.signature(type(module).forward).parameters


def _projection(block: nn.Module, attention: str) -> str | None:
    """The last matrix that an attention module multiplies by; none if that is outside it, and it returns what queries, keys and values give."""
    return _joined(attention, _last_matrix(block.get_submodule(attention)))


def _last_matrix(module: nn.Module) -> str | None:
    """The last matrix that a module's forward multiplies by, if need be inside the module that it ends with; None: it is not known."""
    terms = followed(module)
    if len(terms) != 1:
        return None
    linear = [path for path in terms[0] if getattr(_weight(module, path), "ndim", 0) == 2]
    if linear:
        return linear[-1]
    last = terms[0][-1]
    return _joined(last, _last_matrix(module.get_submodule(last))) if last not in (_STREAM, _BLOCK) else None


def _weight(module: nn.Module, path: str) -> object:
    return getattr(module.get_submodule(path), "weight", None)


def _heads(attention: nn.Module) -> int:
    owners = (attention, getattr(attention, "config", None))
    return next((int(heads) for owner in owners for name in _HEADS if (heads := getattr(owner, name, None))), 0)


def _joined(path: str, inner: str | None) -> str | None:
    return None if inner is None else f"{path}.{inner}"


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def followed(module: nn.Module) -> _Value:
    """What a module's forward returns (the first, of several), by the modules that it came through; () if that cannot be followed."""
    function = _source(module)
    if function is None:
        return ()
    flow = _Flow(module, {function.args.args[1].arg: (_STREAM,)})
    flow.follow(function.body)
    return flow.returned


def _source(module: nn.Module) -> ast.FunctionDef | None:
    """The syntax tree of a module's forward; None: a class without source."""
    kind: type = type(module)
    return _parsed(kind)


@cache
def _parsed(kind: type[nn.Module]) -> ast.FunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(kind.forward))))
    except (OSError, TypeError, SyntaxError):
        return None
    function = tree.body[0]
    return function if isinstance(function, ast.FunctionDef) and len(function.args.args) > 1 else None


class _Flow:
    """Follows the tensors of one module's forward, statement by statement."""

    def __init__(self, module: nn.Module, names: dict[str, _Value]) -> None:
        self.module = module
        self.names = names
        self.returned: _Value = ()
        self._blocks: set[str] = set()

    def follow(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            match statement:
                case ast.Assign(targets=targets, value=value):
                    self._assign(targets, self.value(value))
                case ast.AugAssign(target=ast.Name(id=name), value=value):
                    self.names[name] = _union([self.names.get(name, ()), self.value(value)])
                case ast.If(test=test, body=body, orelse=orelse):
                    decided = _decided(test, self.module)
                    self.follow([*(body if decided is not False else ()), *(orelse if decided is not True else ())])
                case ast.For(target=target, body=body):
                    self._blocks |= {*_names(target)}
                    self.follow(body)
                case ast.With(body=body):
                    self.follow(body)
                case ast.Return(value=ast.expr() as value):
                    self.returned = self.value(value)

    def _assign(self, targets: Sequence[ast.expr], value: _Value) -> None:
        """Of several values that a call returns, the first is followed."""
        for target in targets:
            names = [name.id for name in ast.walk(target) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]
            self.names |= {name: value if not number else () for number, name in enumerate(names)}

    def value(self, node: ast.expr) -> _Value:
        match node:
            case ast.Name(id=name):
                return self.names.get(name, ())
            case ast.BinOp(left=left, right=right):
                return _union([self.value(left), self.value(right)])
            case ast.Tuple(elts=[first, *_]) | ast.List(elts=[first, *_]):
                return self.value(first)
            case ast.Subscript(value=inner) | ast.UnaryOp(operand=inner) | ast.IfExp(body=inner):
                return self.value(inner)
            case ast.Call(func=function):
                path = self._called(function)
                given = [value for argument in _arguments(node) if (value := self.value(argument))]
                return self._method(function, given) if path is None else self._output(path, given)
        return ()

    def _called(self, function: ast.expr) -> str | None:
        """The path of the module that is called; None: a function, or a module that is not there."""
        if isinstance(function, ast.Name) and function.id in self._blocks:
            return _BLOCK
        owner, _, path = ast.unparse(function).partition(".")
        return path if owner == "self" and _has(self.module, path) else None

    def _method(self, function: ast.expr, given: Sequence[_Value]) -> _Value:
        """The value of `x.view(...)` is that of x; a function's is that of its arguments."""
        owner = self.value(function.value) if isinstance(function, ast.Attribute) else ()
        return owner or _union(given)

    def _output(self, path: str, given: Sequence[_Value]) -> _Value:
        if path == _BLOCK:
            return ((_BLOCK,),)
        module, streams = self.module.get_submodule(path), [value for value in given if _STREAM in value]
        # A gate is a module of parameters alone that gets the residual stream and what to add to it.
        gates = 0 < len(streams) < len(given) and not list(module.children())
        if gates or isinstance(module, nn.Dropout):
            return _union(given)
        behind_blocks = [value for value in given if any(_BLOCK in term for term in value)]
        before = (behind_blocks or [*given, ()])[0]
        return ((*(before[0] if len(before) == 1 else ()), path),)


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _union(values: Iterable[_Value]) -> _Value:
    return tuple(dict.fromkeys(term for value in values for term in value))


def _decided(test: ast.expr, module: nn.Module) -> bool | None:
    """Whether a condition on a module's own attributes holds; None: it depends on something else."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            decided = _decided(operand, module)
            return None if decided is None else not decided
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return bool(getattr(module, name, None))
        case ast.Compare(left=ast.Attribute(value=ast.Name(id="self"), attr=name), ops=[operator], comparators=[ast.Constant(value=value)]):
            same = getattr(module, name, None) == value
            return same if isinstance(operator, ast.Eq | ast.Is) else not same if isinstance(operator, ast.NotEq | ast.IsNot) else None
    return None
