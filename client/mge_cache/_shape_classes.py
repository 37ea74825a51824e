"""Dataclasses, pydantic's models, named tuples and enums as JSON.

A class is written as its module and its qualified name, and looked up among loaded modules only:
nothing is imported, and no constructor, validator or ``__post_init__`` runs. If the class's fields
are not those that were written, it is not the same class any more.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from typing import TYPE_CHECKING, Any

from mge_cache._shape_errors import UnfaithfulError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TAGS = frozenset({"dataclass", "model", "named", "enum"})

_BUILT_IN = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, BaseException)
_SLOTS_OF_ALL = frozenset({"__dict__", "__weakref__"})


def written(value: object, types: Sequence[type]) -> list[object] | None:
    """Return a tag and what belongs to it; None for what is none of the four."""
    kind: Any = type(value)
    if isinstance(value, enum.Enum):
        if kind.__members__.get(str(value.name)) is not value:
            raise UnfaithfulError(f"a value of {kind.__qualname__} is no member of it")
        return ["enum", *_name(kind, types), value.name]
    if isinstance(value, tuple) and hasattr(kind, "_fields") and not getattr(value, "__dict__", {}):
        return ["named", *_name(kind, types), *value]
    if _is_model(kind):
        return ["model", *_name(kind, types), *_model_state(value)]
    if hasattr(kind, "__dataclass_fields__"):
        return ["dataclass", *_name(kind, types), _dataclass_state(value)]
    return None


def read(tag: str, items: list[Any], types: Sequence[type]) -> object:
    """Return the object that was written.

    Raises TypeError, ValueError, LookupError or AttributeError if it is not there to be made.
    """
    module, name, *state = items
    kind = _find(module, name, types)
    match tag:
        case "enum" if issubclass(kind, enum.Enum):
            return kind.__members__[state[0]]
        case "named" if issubclass(kind, tuple):
            _same(len(state), len(kind._fields))  # type: ignore[attr-defined]
            return tuple.__new__(kind, state)
        case "model" if _is_model(kind):
            return _model_of(kind, *state)
        case "dataclass" if dataclasses.is_dataclass(kind):
            return _dataclass_of(kind, state[0])
    raise TypeError("the class is of another kind")


def _name(kind: type, types: Sequence[type]) -> tuple[str, str]:
    """Return how to find a class again."""
    try:
        found = _find(kind.__module__, kind.__qualname__, types)
    except LookupError:
        found = None
    if found is not kind:
        raise UnfaithfulError(f"{kind.__qualname__} cannot be found by its name")
    return kind.__module__, kind.__qualname__


def _find(module: str, name: str, types: Sequence[type]) -> type:
    """Find a class by name; raises LookupError. Nothing is imported, no ``__getattr__`` runs."""
    for kind in types:
        if (kind.__module__, kind.__qualname__) == (module, name):
            return kind
    scope: object = sys.modules[module]
    for part in name.split("."):
        scope = vars(scope)[part] if hasattr(scope, "__dict__") else None
    if not isinstance(scope, type):
        raise LookupError("no class of this name")  # noqa: TRY004 - as the others
    return scope


def _is_model(kind: type) -> bool:
    # Missing while another thread loads pydantic; then this class is none of its.
    return issubclass(kind, getattr(sys.modules.get("pydantic"), "BaseModel", ()))


def _model_state(value: Any) -> list[object]:
    kind, fields = type(value), vars(value)
    if fields.keys() != kind.model_fields.keys():
        raise _holds_more(kind)
    return [
        dict(fields),
        value.__pydantic_extra__,
        sorted(value.__pydantic_fields_set__),
        value.__pydantic_private__,
    ]


def _model_of(
    kind: Any, fields: dict[str, Any], extra: object, fields_set: list[str], private: object
) -> object:
    _same(fields.keys(), kind.model_fields.keys())
    model = object.__new__(kind)
    for name, state in (
        ("__dict__", fields),
        ("__pydantic_extra__", extra),
        ("__pydantic_fields_set__", set(fields_set)),
        ("__pydantic_private__", private),
    ):
        object.__setattr__(model, name, state)
    return model


def _dataclass_state(value: Any) -> dict[str, object]:
    kind = type(value)
    names = _field_names(kind)
    slots = {name for base in kind.__mro__ for name in _slots(base)} - _SLOTS_OF_ALL
    held = getattr(value, "__dict__", {}).keys() | slots
    if isinstance(value, _BUILT_IN) or not held <= names:
        raise _holds_more(kind)
    try:
        return {name: object.__getattribute__(value, name) for name in sorted(names)}
    except AttributeError:
        raise UnfaithfulError(f"a field of a {kind.__qualname__} has no value") from None


def _dataclass_of(kind: type, fields: dict[str, Any]) -> object:
    _same(fields.keys(), _field_names(kind))
    value: object = object.__new__(kind)
    for name, member in fields.items():
        object.__setattr__(value, name, member)
    return value


def _field_names(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _slots(kind: type) -> Iterable[str]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else slots


def _holds_more(kind: type) -> UnfaithfulError:
    return UnfaithfulError(f"a {kind.__qualname__} holds other things than its fields")


def _same(written_fields: object, fields: object) -> None:
    if written_fields != fields:
        raise TypeError("the class has other fields now")
