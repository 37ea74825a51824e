"""The lines of the file that ``mge-cache warm`` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mge_cache import Answer, InvalidRequestError, PromptKey, PromptRequest, Usage
from mge_cache_server.config_parse import parse_duration
from mge_cache_server.jsonl import FieldError

if TYPE_CHECKING:
    from mge_cache_server.jsonl import Line

_USAGE = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
_IDENTITY = ("prompt", "temperature", "parameters")
_MEMBERS = frozenset(
    {
        *("model", "key", "answer", "answer_base64", "content_type", "usage", "cost_usd"),
        *("compute_s", "ttl", "masterplan", "tags"),
        *_IDENTITY,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmLine:
    """An answer to be stored, and what it answers."""

    number: int
    end: int
    request: PromptRequest | PromptKey
    answer: Answer
    compute_s: float
    ttl_s: float | None
    masterplan: str | None
    tags: tuple[str, ...]


def parse_line(line: Line, namespace: str) -> WarmLine:
    """Read a line; raises FieldError."""
    line.only(_MEMBERS)
    is_text = "answer" in line.members
    usage = line.counts("usage", _USAGE)
    return WarmLine(
        number=line.number,
        end=line.end,
        request=_request(line, namespace),
        answer=Answer(
            line.body("answer"),
            content_type=line.text("content_type", "text/plain; charset=utf-8" if is_text else ""),
            usage=Usage(**usage) if usage else None,
            cost_usd=line.amount("cost_usd"),
        ),
        compute_s=line.amount("compute_s") or 0.0,
        ttl_s=_ttl(line),
        masterplan=line.text("masterplan", "") or None,
        tags=line.texts("tags"),
    )


def _request(line: Line, namespace: str) -> PromptRequest | PromptKey:
    if ("key" in line.members) == ("prompt" in line.members):
        raise FieldError("prompt", "either this or key is required")
    try:
        if "prompt" in line.members:
            return PromptRequest(
                model=line.text("model"),
                prompt=line.text("prompt", ""),
                temperature=line.amount("temperature"),
                parameters=line.object("parameters"),
                namespace=namespace,
            )
        beside = [name for name in _IDENTITY if name in line.members]
        if beside:
            raise FieldError(beside[0], "is part of the key already")
        return PromptKey(key=_digest(line), model=line.text("model"), namespace=namespace)
    except InvalidRequestError as error:
        # Of the name only the field: a parameter's name is the file's content.
        raise FieldError(error.field.partition("[")[0], error.problem) from None


def _digest(line: Line) -> bytes:
    try:
        return bytes.fromhex(line.text("key"))
    except ValueError:
        raise FieldError("key", "must be 64 hexadecimal digits") from None


def _ttl(line: Line) -> float | None:
    value = line.members.get("ttl")
    if not isinstance(value, str):
        return line.amount("ttl")
    try:
        return parse_duration(value)
    except ValueError as error:
        raise FieldError("ttl", str(error)) from None
