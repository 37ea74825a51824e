"""The options and files that say what ``mge-cache generate`` asks."""

from __future__ import annotations

import dataclasses
import functools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mge_cache_server.cli.entries import Duration
from mge_cache_server.cli.identity import parse_parameter, read_prompt
from mge_cache_server.cli.sidecar import namespace_option, usage_errors
from mge_cache_server.jsonl import FieldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache import PromptRequest
    from mge_cache_server.jsonl import Line

_MEMBERS = ("model", "prompt", "temperature", "parameters")

_OPTIONS = (
    namespace_option,
    click.option("-m", "--model", default="", help="The model's name."),
    click.option("-s", "--system", help="The system prompt."),
    click.option("--max-tokens", type=click.IntRange(1), help="[default: the sidecar's, 4096]"),
    click.option("-t", "--temperature", type=float, help="Unset differs from 0."),
    click.option(
        "-p",
        "--parameter",
        "parameters",
        multiple=True,
        metavar="NAME=JSON",
        help="Another parameter of the request, e.g. top_k=5; may be repeated.",
    ),
    click.option(
        "--strategy",
        type=click.Choice(["fan_out", "merge", "deferred"]),
        help="How Anthropic is asked.  [default: the sidecar's]",
    ),
    click.option(
        "--cache",
        type=click.Choice(["use", "refresh", "bypass"]),
        default="use",
        show_default=True,
        help="How to use the prompt cache.",
    ),
    click.option("--masterplan", help="The masterplan that the answer belongs to."),
    click.option("--tag", "tags", multiple=True, help="A tag to invalidate by; may be repeated."),
    click.option("--ttl", type=Duration(), help="Time to live.  [default: the sidecar's]"),
    click.option(
        "--timeout",
        type=Duration(),
        default="10m",
        show_default=True,
        help="How long to wait for the whole answer.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The values of these options, as given."""

    namespace: str
    model: str
    system: str | None
    max_tokens: int | None
    temperature: float | None
    parameters: tuple[str, ...]
    strategy: str | None
    cache: str
    masterplan: str | None
    tags: tuple[str, ...]
    ttl: float | None
    timeout: float

    def options(self) -> dict[str, Any]:
        """Return the arguments of ``generate`` and ``generate_many`` beside the requests."""
        from mge_cache import CacheUse, Strategy  # noqa: PLC0415 (not for `serve`)

        return {
            "masterplan": self.masterplan,
            "tags": self.tags,
            "ttl_s": self.ttl,
            "cache": CacheUse(self.cache),
            "strategy": None if self.strategy is None else Strategy(self.strategy),
            "timeout_s": self.timeout,
        }


def wish_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; they reach it as its argument ``wish``."""

    @functools.wraps(function)
    def command(**values: Any) -> None:
        names = [field.name for field in dataclasses.fields(Wish)]
        wish = Wish(**{name: values.pop(name) for name in names})
        function(wish=wish, **values)

    for decorate in reversed(_OPTIONS):
        decorate(command)
    return command


def read_one(wish: Wish, prompt: str | None) -> PromptRequest:
    """Make the request of a prompt ("-" or None: from stdin); mistakes are wrong usage."""
    from mge_cache import PromptRequest  # noqa: PLC0415

    if not wish.model:
        raise click.UsageError("Missing option '-m' / '--model'")
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError("give the prompt as the argument or on stdin, or --file")
    text = read_prompt(sys.stdin.buffer) if prompt in {None, "-"} else prompt
    with usage_errors():
        return PromptRequest(
            model=wish.model,
            prompt=text or "",
            temperature=wish.temperature,
            parameters=parameters_of(wish),
            namespace=wish.namespace,
        )


def read_line(wish: Wish, line: Line) -> PromptRequest:
    """Make the request of a line; its members win over the options. Raises FieldError."""
    from mge_cache import InvalidRequestError, PromptRequest  # noqa: PLC0415

    line.only(_MEMBERS)
    temperature = line.amount("temperature")
    try:
        return PromptRequest(
            model=line.text("model", wish.model or None),
            prompt=line.text("prompt", ""),
            temperature=wish.temperature if temperature is None else temperature,
            parameters=parameters_of(wish) | line.object("parameters"),
            namespace=wish.namespace,
        )
    except InvalidRequestError as error:
        # Of the name only the field: a parameter's name is the file's content.
        raise FieldError(error.field.partition("[")[0], error.problem) from None


def parameters_of(wish: Wish) -> dict[str, Any]:
    """Return the parameters that the options name; mistakes are wrong usage."""
    parameters = dict(parse_parameter(text, "--parameter") for text in wish.parameters)
    for name, value in (("system", wish.system), ("max_tokens", wish.max_tokens)):
        if value is not None and name in parameters:
            raise click.UsageError(f"--parameter {name} is given by its own option too")
        if value is not None:
            parameters[name] = value
    return parameters
