"""Documents of any shape come back with the same types and equal, or are refused."""

from __future__ import annotations

import enum
import json
import math
import sys
import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field, make_dataclass
from datetime import datetime, timedelta, timezone
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from pydantic import BaseModel, SecretStr

from mge_cache import _shapes
from mge_cache._shape_errors import UnfaithfulError, UnreadableError
from tests.unit import documents
from tests.unit.documents import Checked, Chunk, Frozen, Model


def assert_same(found: Any, wanted: Any) -> None:
    """Equal, and of the same types all the way down."""
    assert type(found) is type(wanted)
    assert found == wanted
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for (name, member), (other, expected) in zip(found.items(), wanted.items(), strict=True):
            assert_same(name, other)
            assert_same(member, expected)
    elif isinstance(wanted, list | tuple):
        for member, expected in zip(found, wanted, strict=True):
            assert_same(member, expected)
    elif hasattr(wanted, "__dict__") and not isinstance(wanted, enum.Enum | BaseException):
        for name, member in vars(wanted).items():
            assert_same(vars(found)[name], member)
    else:
        assert repr(found) == repr(wanted) or isinstance(wanted, set | frozenset | Frozen)


@given(documents.documents)
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read(value: Any) -> None:
    content = _shapes.to_json(value)
    assert_same(_shapes.of_json(content), value)
    assert _shapes.to_json(_shapes.of_json(content)) == content


@pytest.mark.parametrize("value", documents.examples, ids=lambda value: type(value).__name__)
def test_examples(value: Any) -> None:
    assert_same(_shapes.of_json(_shapes.to_json(value)), value)


def test_it_is_json_and_plain_where_json_has_it() -> None:
    value = {"id": "a", "n": [1, 2.5, None, True], "m": {"x": "é"}}
    assert json.loads(_shapes.to_json(value)) == value


def test_the_order_of_a_set_does_not_show() -> None:
    assert _shapes.to_json({"a", "b", "c"}) == _shapes.to_json({"c", "b", "a"})


def test_nan_and_arrays() -> None:
    assert math.isnan(_shapes.of_json(_shapes.to_json(float("nan"))))
    for value in (
        np.arange(6, dtype="f4").reshape(2, 3),
        np.array([], dtype="f8"),
        np.array([1, 2], dtype=">i2"),
        np.array(3.5),
    ):
        found = _shapes.of_json(_shapes.to_json({"embedding": value}))["embedding"]
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert np.array_equal(found, value)
        assert found.flags.writeable
    scalar = _shapes.of_json(_shapes.to_json(np.int64(7)))
    assert type(scalar) is np.int64
    assert scalar == 7


def test_a_model_keeps_what_was_set_and_what_is_private() -> None:
    model = Model(text="t")
    model._seen = 3
    found = _shapes.of_json(_shapes.to_json(model))
    assert (found, found._seen, found.model_fields_set) == (model, 3, {"text"})


def test_no_constructor_runs() -> None:
    assert _shapes.of_json(_shapes.to_json(Checked("a"))).id == "a!"


def test_a_local_class_is_found_if_it_is_given() -> None:
    @dataclass
    class Local:
        id: int

    with pytest.raises(UnfaithfulError, match="Local cannot be found by its name"):
        _shapes.to_json(Local(1))
    content = _shapes.to_json([Local(1)], types=[Local])
    assert _shapes.of_json(content, types=[Local]) == [Local(1)]
    with pytest.raises(UnreadableError):
        _shapes.of_json(content)


class Text(str):
    __slots__ = ("language",)


class Named(namedtuple("Named", "a")):  # noqa: PYI024, SLOT002
    pass


@dataclass
class Listed(list[int]):
    id: str = ""


class Flags(enum.Flag):
    A = 1
    B = 2


class Secret(BaseModel):
    key: SecretStr


@dataclass
class Slotted:
    __slots__ = ("__dict__", "hidden")
    id: str


@dataclass
class Unset:
    id: str
    later: int = field(init=False)


def extended(value: Any) -> Any:
    value.more = 1
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(200):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(object(), id="object"),
        pytest.param(threading.Lock(), id="lock"),
        pytest.param(OrderedDict(a=1), id="subclass of dict"),
        pytest.param(Text("t"), id="subclass of str"),
        pytest.param(extended(Named(1)), id="named tuple with more"),
        pytest.param(Listed("a"), id="dataclass that is a list"),
        pytest.param(extended(Chunk("a", "b")), id="dataclass with more"),
        pytest.param(Slotted("a"), id="dataclass with a slot"),
        pytest.param(Unset("a"), id="dataclass without a value"),
        pytest.param(make_dataclass("Made", ["a"])(1), id="class without a name"),
        pytest.param(Flags.A | Flags.B, id="flags"),
        pytest.param(Secret(key=SecretStr("k")), id="secret"),
        pytest.param(Model.model_construct(), id="model without its fields"),
        pytest.param(10**5000, id="long number"),
        pytest.param(np.array(["a"]), id="array of texts"),
        pytest.param(np.array([1j]), id="array of complex"),
        pytest.param(datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "here")), id="zone"),
        pytest.param({1: {2: [print]}}, id="deep inside"),
        pytest.param(Chunk, id="class"),
        pytest.param(deep(), id="deep"),
        pytest.param(CYCLE, id="cycle"),
    ],
)
def test_what_would_be_lost_is_refused(value: Any) -> None:
    with pytest.raises(UnfaithfulError):
        _shapes.to_json(value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"{",
        b'{"$": 1}',
        b'{"$": []}',
        b'{"$": ["other"]}',
        b'{"$": ["floats", "abc"]}',
        b'{"$": ["Decimal", "x"]}',
        b'{"$": ["dict", [1]]}',
        b'{"$": ["set", [1]]}',
        b'{"$": ["datetime", "2024-01-01", 0, "zone", "No/Where"]}',
        b'{"$": ["datetime", "2024-01-01", 0, "other"]}',
        b'{"$": ["numpy", "O", [1], ""]}',
        b'{"$": ["path", "WindowsPath", "a"]}',
        b'{"$": ["enum", "tests.unit.documents", "Kind", "NONE"]}',
        b'{"$": ["named", "tests.unit.documents", "Place", 1]}',
        b'{"$": ["model", "tests.unit.documents", "Model", {"text": "t"}, {}, [], {}]}',
        b'{"$": ["dataclass", "tests.unit.documents", "Checked", {"id": "a", "more": 1}]}',
        b'{"$": ["dataclass", "tests.unit.documents", "Model", {}]}',
        b'{"$": ["dataclass", "builtins", "object", {}]}',
        b'{"$": ["dataclass", "subprocess", "Popen", {"args": "id"}]}',
        b'{"$": ["dataclass", "tests.unit.nowhere", "Checked", {"id": "a"}]}',
        b'{"$": ["dataclass", "os", "path.join", {}]}',
        b"[" * 100_000,
    ],
)
def test_anything_else_is_unreadable(content: bytes) -> None:
    with pytest.raises(UnreadableError):
        _shapes.of_json(content)


def test_nothing_is_imported_to_read() -> None:
    name = "this"  # a module of the standard library that prints
    assert name not in sys.modules
    content = json.dumps({"$": ["dataclass", name, "Any", {}]}).encode()
    with pytest.raises(UnreadableError):
        _shapes.of_json(content)
    assert name not in sys.modules


@pytest.mark.parametrize("name", ["numpy", "pydantic", "pydantic_core"])
def test_a_library_that_another_thread_is_loading(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = [Chunk("a", "b"), Frozen(1), datetime(2024, 1, 1, tzinfo=timezone(timedelta(0)))]
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert _shapes.of_json(_shapes.to_json(value)) == value
    with pytest.raises(UnfaithfulError):
        _shapes.to_json(object())
