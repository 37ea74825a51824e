"""Values of any shape as JSON, and back with the same types. Nothing here runs what it reads.

What JSON has is written as it is: None, bool, int, finite float, str, list, and dict with names
that are text. All else is an object with the one member ``$``: a list of a tag and what belongs to
it. Only exact types are taken, as a subclass may hold what would be lost. numpy and pydantic are
used where the application has loaded them, and never needed.
"""

from __future__ import annotations

import base64
import importlib
import json
import math
import sys
from array import array
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from mge_cache import _shape_classes, _shape_times
from mge_cache._shape_errors import UnfaithfulError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEPTH_MAX = 100
"""How deep values may be nested."""

_TAG = "$"
_PACKED_MIN = 16  # so many floats in a list take less as bytes than as digits
_NUMPY_KINDS = frozenset("biuf")
_NUMPY_BYTES_MAX = 8  # longer numbers differ between machines
_AS_THEY_ARE = (str, bool, type(None), int)


def to_json(value: object, *, types: Sequence[type] = ()) -> bytes:
    """Write a value, as UTF-8.

    ``types`` are classes that cannot be found by their names; the others are those of loaded
    modules. Raises UnfaithfulError, which names a type and no content, if the value could not be
    read back with the same types and equal to what it is.
    """
    try:
        plain = _Writer(types).plain(value, 0)
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    except ValueError:  # an int with thousands of digits
        raise UnfaithfulError("a number is too long") from None
    return text.encode("utf-8", "surrogatepass")


def of_json(content: bytes, *, types: Sequence[type] = ()) -> Any:
    """Read what ``to_json`` wrote. Raises UnreadableError for anything else.

    A class is looked up among ``types`` and in modules that are loaded already; it is made without
    calling anything of its own.
    """
    try:
        return _Reader(types).value(json.loads(content.decode("utf-8", "surrogatepass")))
    except (
        ArithmeticError,
        AttributeError,
        ImportError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as exc:
        raise UnreadableError(f"not readable: {type(exc).__name__}") from None


class _Writer:
    def __init__(self, types: Sequence[type]) -> None:
        self._types = types

    def plain(self, value: object, depth: int) -> object:
        """Return what the json module writes."""
        kind = type(value)
        if kind in _AS_THEY_ARE:
            return value
        if depth > DEPTH_MAX:
            raise UnfaithfulError(f"nested deeper than {DEPTH_MAX} levels")
        inner = depth + 1
        match value:
            case float() if kind is float:
                return value if math.isfinite(value) else {_TAG: ["float", repr(value)]}
            case list() if kind is list:
                return self._list(value, inner)
            case dict() if kind is dict:
                return self._dict(value, inner)
            case tuple() if kind is tuple:
                return {_TAG: ["tuple", *(self.plain(item, inner) for item in value)]}
            case set() | frozenset() if kind in (set, frozenset):
                # In an order that does not depend on hashes: contents are hashed.
                items = sorted((self.plain(item, inner) for item in value), key=json.dumps)
                return {_TAG: [kind.__name__, *items]}
            case bytes() | bytearray() if kind in (bytes, bytearray):
                return {_TAG: [kind.__name__, _base64(value)]}
        return {_TAG: self._tagged(value, inner)}

    def _list(self, items: list[object], depth: int) -> object:
        if len(items) >= _PACKED_MIN and all(type(item) is float for item in items):
            return {_TAG: ["floats", _base64(_swapped(array("d", items)).tobytes())]}  # type: ignore[arg-type]
        return [self.plain(item, depth) for item in items]

    def _dict(self, members: dict[object, object], depth: int) -> object:
        if _TAG not in members and all(type(name) is str for name in members):
            return {name: self.plain(member, depth) for name, member in members.items()}
        pairs = [
            [self.plain(name, depth), self.plain(member, depth)] for name, member in members.items()
        ]
        return {_TAG: ["dict", *pairs]}

    def _tagged(self, value: object, depth: int) -> list[object]:
        written = (
            _shape_times.written(value)
            or _written_text(value)
            or _written_numpy(value)
            or _shape_classes.written(value, self._types)
        )
        if written is None:
            raise UnfaithfulError(f"a {type(value).__qualname__} has no form as JSON")
        tag, *rest = written
        return [tag, *(self.plain(item, depth) for item in rest)]


class _Reader:
    def __init__(self, types: Sequence[type]) -> None:
        self._types = types

    def value(self, plain: Any) -> Any:
        """Return the value that was written."""
        if isinstance(plain, list):
            return [self.value(item) for item in plain]
        if not isinstance(plain, dict):
            return plain
        if _TAG not in plain:
            return {name: self.value(member) for name, member in plain.items()}
        tag, *items = plain[_TAG]
        if tag in _shape_classes.TAGS:
            return _shape_classes.read(tag, [self.value(item) for item in items], self._types)
        return _READERS[tag](*(self.value(item) for item in items))


def _written_text(value: object) -> list[object] | None:
    kind = type(value)
    if kind is Decimal or kind is UUID:
        return [kind.__name__, str(value)]
    if isinstance(value, PurePath) and _PATHS.get(kind.__name__) is kind:
        return ["path", kind.__name__, str(value)]
    return None


def _written_numpy(value: object) -> list[object] | None:
    # Either is missing while another thread loads numpy; then this is none of it.
    arrays, scalars = (
        getattr(sys.modules.get("numpy"), name, ()) for name in ("ndarray", "generic")
    )
    is_array = type(value) is arrays
    if not is_array and not isinstance(value, scalars):
        return None
    array_like: Any = value
    dtype = array_like.dtype
    if dtype.kind not in _NUMPY_KINDS or dtype.itemsize > _NUMPY_BYTES_MAX or dtype.metadata:
        raise UnfaithfulError(f"numpy's {dtype.kind}{dtype.itemsize} has no form as JSON")
    shape = list(array_like.shape) if is_array else None
    return ["numpy", dtype.str, shape, _base64(array_like.tobytes())]


def _read_numpy(dtype: str, shape: list[int] | None, content: str) -> object:
    np: Any = importlib.import_module("numpy")  # not by a statement: the client does not need it
    read_only = np.frombuffer(base64.b64decode(content, validate=True), np.dtype(dtype))
    return read_only[0] if shape is None else read_only.reshape(shape).copy()


def _read_floats(content: str) -> list[float]:
    return _swapped(array("d", base64.b64decode(content, validate=True))).tolist()


def _read_path(kind: str, text: str) -> object:
    return _PATHS[kind](text)


def _base64(content: bytes | bytearray) -> str:
    return base64.b64encode(content).decode()


def _swapped(floats: array[float]) -> array[float]:
    """Change between little-endian and this machine's byte order."""
    if sys.byteorder == "big":
        floats.byteswap()
    return floats


_PATHS: dict[str, type[PurePath]] = {
    kind.__name__: kind
    for kind in (PurePath, PurePosixPath, PureWindowsPath, Path, PosixPath, WindowsPath)
}
_READERS: dict[str, Callable[..., object]] = {
    "float": float,
    "floats": _read_floats,
    "dict": lambda *pairs: {name: member for name, member in pairs},  # noqa: C416 - checks pairs
    "tuple": lambda *items: items,
    "set": lambda *items: set(items),
    "frozenset": lambda *items: frozenset(items),
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "bytearray": lambda text: bytearray(base64.b64decode(text, validate=True)),
    "date": date.fromisoformat,
    "datetime": _shape_times.read_datetime,
    "time": lambda iso, fold: time.fromisoformat(iso).replace(fold=fold),
    "timedelta": timedelta,
    "Decimal": Decimal,
    "UUID": UUID,
    "path": _read_path,
    "numpy": _read_numpy,
}
