"""A mypy plugin: no arithmetic on single numpy integers.

An array of numpy integers wraps around in silence, and where code counts on that it does so for every element. A single
number taken out of an array wraps too, but with a warning, and only in the run that meets the values. Python's integers
do neither. So a number becomes an `int` before it is reckoned with: `int(rows[at, 1]) - int(rows[at, 0])`.

mypy has to know what comes out of an array for that, which numpy's own types leave open: here an index that names one
element has that element's type, and a field of a record counts as a 64-bit number. So a row of a table is written
`rows[at, :]`, and a loop over rows goes over `rows.tolist()` or over indices.
"""

from collections.abc import Callable
from typing import cast

from mypy.checker import TypeChecker
from mypy.errorcodes import ErrorCode
from mypy.nodes import TypeInfo
from mypy.plugin import MethodContext, Plugin
from mypy.types import AnyType, Instance, ProperType, TupleType, Type, TypeOfAny, get_proper_type

WRAPS = ErrorCode("numpy-scalar", "Arithmetic on a single numpy integer, which can wrap around", "Numpy")
_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "lshift": "<<", "pow": "**", "neg": "-"}
"""Those whose result may not fit the type; >>, &, |, ^, //, % and ~ stay within it."""
_INTEGERS = ("numpy.unsignedinteger", "numpy.signedinteger", "numpy.integer")
_INDICES = ("builtins.int", *_INTEGERS)
_REDUCTIONS = ("max", "min", "sum", "prod", "take", "trace")


class ScalarIntegers(Plugin):
    """Gives elements of integer arrays their type, and refuses arithmetic on them."""

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        owner, _, name = fullname.rpartition(".")
        if owner == "numpy.ndarray":
            if name in _REDUCTIONS:
                return _reduced
            return {"__getitem__": _element, "__iter__": _elements}.get(name)
        if owner == "numpy.void" and name == "__getitem__":
            return _field
        operator = name.strip("_")
        operator = _OPERATORS.get(operator) or _OPERATORS.get(operator.removeprefix("r"), "")
        return _refusal(operator) if owner in _INTEGERS and operator else None


def _element(context: MethodContext) -> Type:
    """What an array's element is, where numpy's types say `Any`."""
    answer = get_proper_type(context.default_return_type)
    if not isinstance(answer, AnyType) or not context.arg_types or not context.arg_types[0]:
        return answer
    key = get_proper_type(context.arg_types[0][0])
    parts = [get_proper_type(part) for part in key.items] if isinstance(key, TupleType) else [key]
    return _kept_by(context.type) or answer if all(_is_index(part) for part in parts) else answer


def _elements(context: MethodContext) -> Type:
    """What a loop over an array meets: elements."""
    answer, element = get_proper_type(context.default_return_type), _kept_by(context.type)
    if element is None or not isinstance(answer, Instance) or len(answer.args) != 1:
        return answer
    return answer.copy_modified(args=[element]) if isinstance(get_proper_type(answer.args[0]), AnyType) else answer


def _reduced(context: MethodContext) -> Type:
    """A number made of all elements is of their type; along an axis there would be more, and numpy's types know."""
    answer = get_proper_type(context.default_return_type)
    return _kept_by(context.type) or answer if isinstance(answer, AnyType) else answer


def _field(context: MethodContext) -> Type:
    """A field of a record: which type it has is known at run time only."""
    answer = get_proper_type(context.default_return_type)
    return _number(context) if isinstance(answer, AnyType) else answer


def _refusal(operator: str) -> Callable[[MethodContext], Type]:
    def refuse(context: MethodContext) -> Type:
        # With an array on the other side the operation is the array's.
        others = [get_proper_type(kind) for kinds in context.arg_types[:1] for kind in kinds]
        if not any(isinstance(other, Instance) and other.type.has_base("numpy.ndarray") for other in others):
            sentence = f"{operator} on a single numpy integer can wrap around: make an int of it first"
            context.api.fail(sentence, context.context, code=WRAPS)
        return context.default_return_type

    return refuse


def _number(context: MethodContext) -> Type:
    # Looked up among all modules: a module that meets a record need not have imported numpy itself.
    numpy = cast(TypeChecker, context.api).modules["numpy"]
    return Instance(cast(TypeInfo, numpy.names["unsignedinteger"].node), [AnyType(TypeOfAny.special_form)])


def _kept_by(array: Type) -> Instance | None:
    """The type of the elements of an array of integers or records."""
    array = get_proper_type(array)
    if not isinstance(array, Instance) or len(array.args) != 2:
        return None
    dtype = get_proper_type(array.args[1])
    if not isinstance(dtype, Instance) or len(dtype.args) != 1:
        return None
    element = get_proper_type(dtype.args[0])
    wanted = isinstance(element, Instance) and any(map(element.type.has_base, (*_INTEGERS, "numpy.void")))
    return element if isinstance(element, Instance) and wanted else None


def _is_index(part: ProperType) -> bool:
    return isinstance(part, Instance) and any(map(part.type.has_base, _INDICES))


def plugin(version: str) -> type[Plugin]:
    """mypy's entry."""
    return ScalarIntegers
