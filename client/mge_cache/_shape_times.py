"""Dates and times as JSON, with their time zones."""

from __future__ import annotations

import sys
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from mge_cache._shape_errors import UnfaithfulError

_SECOND = timedelta(seconds=1)


def written(value: object) -> list[object] | None:
    """Return a tag and what belongs to it; None if this is none of the standard library's times."""
    kind = type(value)
    if kind is datetime:
        assert isinstance(value, datetime)  # noqa: S101 - for the type checker
        naive = value.replace(tzinfo=None, fold=0).isoformat()
        return ["datetime", naive, value.fold, *_zone(value.tzinfo)]
    if kind is date:
        assert isinstance(value, date)  # noqa: S101
        return ["date", value.isoformat()]
    if kind is time:
        assert isinstance(value, time)  # noqa: S101
        if value.tzinfo is not None:
            raise UnfaithfulError("a time with a time zone, but no date, has no form as JSON")
        return ["time", value.replace(fold=0).isoformat(), value.fold]
    if kind is timedelta:
        assert isinstance(value, timedelta)  # noqa: S101
        return ["timedelta", value.days, value.seconds, value.microseconds]
    return None


def read_datetime(naive: str, fold: int, *zone: Any) -> datetime:
    """Return the datetime that was written."""
    return datetime.fromisoformat(naive).replace(fold=fold, tzinfo=_read_zone(*zone))


def _zone(zone: tzinfo | None) -> list[object]:
    if zone is None:
        return []
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        if str(timezone(offset)) == str(zone):  # it has no name of its own
            return ["offset", offset.days, offset.seconds, offset.microseconds]
    if type(zone) is ZoneInfo and zone.key is not None:
        return ["zone", zone.key]
    if type(zone) is _pydantic_zone():
        offset = zone.utcoffset(None) or timedelta()
        return ["pydantic", offset // _SECOND]
    raise UnfaithfulError(f"a time zone that is a {type(zone).__qualname__} has no form as JSON")


def _read_zone(kind: str = "", *items: Any) -> tzinfo | None:
    match kind:
        case "":
            return None
        case "offset":
            return timezone(timedelta(*items))
        case "zone":
            return ZoneInfo(*items)
        case "pydantic":
            zone: tzinfo = _pydantic_zone()(*items)
            return zone
    raise ValueError("unknown kind of time zone")


def _pydantic_zone() -> Any:
    """Return the class of the zones that pydantic makes of texts; None if it is not loaded."""
    return getattr(sys.modules.get("pydantic_core"), "TzInfo", None)
