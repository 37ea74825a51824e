"""Documents of many shapes, for the tests of what comes back from the cache."""

from __future__ import annotations

import enum
import string
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from hypothesis import strategies as st
from langchain_core.documents import Document
from pydantic import BaseModel, ConfigDict, PrivateAttr


class Kind(enum.Enum):
    PAGE = "page"
    NOTE = 2


class Grade(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Place(NamedTuple):
    source: str
    line: int


@dataclass
class Chunk:
    id: str
    text: str
    score: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frozen:
    id: int
    inner: object = None


@dataclass
class Checked:
    """Its constructor must not run when it is read."""

    id: str

    def __post_init__(self) -> None:
        self.id = f"{self.id}!"


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")

    text: str
    at: datetime | None = None
    meta: dict[str, Any] = {}
    _seen: int = PrivateAttr(default=0)


class Outer:
    @dataclass
    class Inner:
        value: object


numbers = st.integers(-(2**70), 2**70)
zones: st.SearchStrategy[Any] = st.sampled_from(
    [None, UTC, timezone(timedelta(hours=-3, minutes=-30)), ZoneInfo("Europe/Berlin")]
)
scalars = (
    st.none()
    | st.booleans()
    | numbers
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.binary(max_size=12)
    | st.binary(max_size=4).map(bytearray)
    | st.datetimes(
        min_value=datetime(1900, 1, 1),  # noqa: DTZ001
        max_value=datetime(2100, 1, 1),  # noqa: DTZ001
        timezones=zones,
    )
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.sampled_from([*Kind, *Grade, PurePosixPath("a/b")])
)
hashables = st.none() | numbers | st.text(max_size=5) | st.dates() | st.sampled_from(Kind)
names = st.text(string.ascii_letters + "$", max_size=3)


def _containers(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    texts = st.text(max_size=8)
    metadata = st.dictionaries(names, values, max_size=3)
    return (
        st.lists(values, max_size=3)
        | st.lists(st.floats(allow_nan=False), min_size=14, max_size=18)
        | st.lists(values, max_size=3).map(tuple)
        | st.dictionaries(hashables, values, max_size=3)
        | metadata
        | st.sets(hashables, max_size=3)
        | st.frozensets(hashables, max_size=3)
        | st.builds(Place, texts, numbers)
        | st.builds(Chunk, texts, texts, st.floats(allow_nan=False), metadata)
        | st.builds(Frozen, numbers, values)
        | st.builds(Outer.Inner, values)
        | st.builds(Document, page_content=texts, metadata=metadata, id=st.none() | texts)
        | st.builds(Model, text=texts, meta=metadata, further=values)
    )


documents = st.recursive(scalars, _containers, max_leaves=10)
"""Anything that must come back as it was."""

examples: list[Any] = [
    {"id": "a", "$": ["dict"], "score": np.float32(0.25)},
    Chunk("c", "text", 1.5, {"at": date(2024, 2, 29), "of": {("a", 1): {2, 3}}}),
    (Document(page_content="p", metadata={"n": 1}), 0.5),
    Model.model_validate({"text": "t", "at": "2024-01-01T00:00:00+02:00"}),
    [float("inf"), -0.0, Decimal("1.10"), uuid.UUID(int=5), "\ud800", 10**300],
    Frozen(1, Outer.Inner(Place("s", 3))),
]
