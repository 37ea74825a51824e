"""The options that say which prompt is meant."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mge_cache_server.cli.sidecar import namespace_option, usage_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from mge_cache import PromptKey, PromptRequest


_OPTIONS = (
    namespace_option,
    click.option("-m", "--model", default="", help="The model's name."),
    click.option("-f", "--file", type=click.File("rb"), help="Read the prompt from a file."),
    click.option("--key", metavar="HEX", help="The canonical key, instead of a prompt."),
    click.option("-t", "--temperature", type=float, help="Unset differs from 0."),
    click.option(
        "-p",
        "--param",
        "params",
        multiple=True,
        metavar="NAME=JSON",
        help="Another parameter of the request, e.g. max_tokens=100 or 'system=\"Be brief\"'.",
    ),
    click.argument("prompt", required=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The values of these options, as given."""

    namespace: str
    model: str
    prompt: str | None
    file: BinaryIO | None
    key: str | None
    temperature: float | None
    params: tuple[str, ...]


def identity_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; they reach it as its argument ``identity``."""

    @functools.wraps(function)
    def command(**values: Any) -> None:
        names = [field.name for field in dataclasses.fields(Identity)]
        identity = Identity(**{name: values.pop(name) for name in names})
        function(identity=identity, **values)

    for decorate in reversed(_OPTIONS):
        decorate(command)
    return command


def read_request(identity: Identity) -> PromptRequest | PromptKey:
    """Make the request that the options describe; mistakes are wrong usage."""
    from mge_cache import PromptKey, PromptRequest  # noqa: PLC0415 (not for `serve`)

    sources = (identity.prompt is not None, identity.file is not None, identity.key is not None)
    if sum(sources) != 1:
        raise click.UsageError("give the prompt as the argument (- reads stdin), --file or --key")
    with usage_errors():
        if identity.key is not None:
            if identity.params or identity.temperature is not None:
                raise click.UsageError("--key stands for --temperature and --param too")
            return PromptKey(
                key=_digest(identity.key), model=identity.model, namespace=identity.namespace
            )
        return PromptRequest(
            model=identity.model,
            prompt=_prompt(identity),
            temperature=identity.temperature,
            parameters=dict(parse_parameter(text) for text in identity.params),
            namespace=identity.namespace,
        )


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise click.UsageError("--key must be hexadecimal digits") from None


def _prompt(identity: Identity) -> str:
    if identity.prompt is not None and identity.prompt != "-":
        return identity.prompt
    return read_prompt(identity.file or sys.stdin.buffer)


def read_prompt(file: BinaryIO) -> str:
    """Read a prompt to its end; what is not UTF-8 is wrong usage."""
    content = file.read()
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise click.UsageError("the prompt is not UTF-8") from None


def parse_parameter(text: str, option: str = "--param") -> tuple[str, Any]:
    """Read NAME=JSON; mistakes are wrong usage of ``option``."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{option} is written NAME=JSON")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        raise click.UsageError(
            f"{option} {name}: not JSON; texts need their quotes: {option} '{name}=\"...\"'"
        ) from None
