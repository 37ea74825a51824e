"""``mge-cache generate`` and ``fetch``: answers through the sidecar's batcher."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from mge_cache_server.cli.entries import Duration
from mge_cache_server.cli.failures import NEGATIVE, CommandError
from mge_cache_server.cli.generate_input import read_one, wish_options
from mge_cache_server.cli.generate_many import run_file
from mge_cache_server.cli.generate_output import members_of, print_summary
from mge_cache_server.cli.sidecar import (
    connect,
    json_option,
    namespace_option,
    target_option,
    usage_errors,
)

if TYPE_CHECKING:
    from typing import BinaryIO

    from mge_cache import Completion, Generation
    from mge_cache_server.cli.generate_input import Wish


@click.command(short_help="Let the sidecar answer a prompt, or a file of them.")
@wish_options
@target_option
@json_option
@click.option("--id", "request_id", help="What to fetch a deferred answer by.  [default: random]")
@click.option("-f", "--file", type=click.File("rb"), help="Many requests: JSON lines, - is stdin.")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=64,
    show_default=True,
    help="So many requests of the file at once.",
)
@click.argument("prompt", required=False)
def generate(
    *,
    wish: Wish,
    target: str | None,
    as_json: bool,
    request_id: str | None,
    file: BinaryIO | None,
    concurrency: int,
    prompt: str | None,
) -> None:
    """Let the sidecar answer a prompt, from the cache or by asking Anthropic, and print the answer.

    The text is printed as it arrives, what it took on stderr. The prompt is the argument, or stdin.
    With --file, JSON lines are printed as answers arrive, in the order in which they do, each with
    the number of its line; exit code 1: some of them failed. The lines of the file have model,
    prompt, temperature, parameters (an object); what one lacks is taken from the options.

    \b
      mge-cache generate -m claude-sonnet-4-5 "Why is the sky blue?"
      mge-cache generate -m claude-sonnet-4-5 -s "Be brief." --max-tokens 100 -t 0 < prompt.txt
      mge-cache generate -m claude-sonnet-4-5 --file requests.jsonl --strategy merge > answers.jsonl
      mge-cache generate -m claude-sonnet-4-5 --strategy deferred --id essay-1 "Write an essay."
    """
    if file is not None:
        if prompt is not None or request_id is not None:
            raise click.UsageError("--file stands for a prompt and --id")
        run_file(file, wish, target=target, concurrency=concurrency)
        return
    from mge_cache import NotReadyError  # noqa: PLC0415 (not for `serve`)

    request = read_one(wish, prompt)
    with connect(target) as client:
        with usage_errors():
            generation = client.generate(request, request_id=request_id, **wish.options())
        with generation:
            if wish.strategy == "deferred":
                click.echo(f"mge-cache: asking as {generation.request_id}", err=True)
            try:
                completion = generation.result() if as_json else _printed(generation)
            except NotReadyError:
                later = f"mge-cache fetch -n {request.namespace} {generation.request_id}"
                raise CommandError(f"not there yet; later: {later}", NEGATIVE) from None
    if as_json:
        click.echo(json.dumps(members_of(completion), ensure_ascii=False))
    else:
        print_summary(completion)


@click.command(short_help="Print the answer of a deferred request.")
@target_option
@namespace_option
@json_option
@click.option(
    "--timeout", type=Duration(), default="0s", show_default=True, help="How long to wait for it."
)
@click.argument("request_id", metavar="ID")
def fetch(
    *, target: str | None, namespace: str, as_json: bool, timeout: float, request_id: str
) -> None:
    """Print the answer of a deferred request. Exit code 1: it is not there yet, or is not known.

    \b
      mge-cache fetch essay-1
      mge-cache fetch essay-1 --timeout 1h --json
    """
    from mge_cache import InvalidRequestError, NotFoundError, NotReadyError  # noqa: PLC0415

    with connect(target) as client:
        try:
            completion = client.fetch(request_id, namespace=namespace, timeout_s=timeout)
        except NotReadyError:
            raise CommandError("not there yet", NEGATIVE) from None
        except NotFoundError:
            raise CommandError("nothing is known of it", NEGATIVE) from None
        except InvalidRequestError as error:
            if error.field == "request_id":
                raise click.UsageError(f"ID {error.problem}") from None
            raise
    if as_json:
        click.echo(json.dumps(members_of(completion), ensure_ascii=False))
        return
    sys.stdout.write(completion.text)
    _end_line(completion.text)
    print_summary(completion)


def _printed(generation: Generation) -> Completion:
    """Print the text as it arrives."""
    anew = False
    last = ""
    for delta in generation:
        if delta.restart:
            anew = True
            _end_line(last, always=True)
            click.echo("mge-cache: the text so far is void; it begins anew", err=True)
        sys.stdout.write(delta.text)
        sys.stdout.flush()
        last = delta.text or last
    completion = generation.result()
    _end_line(completion.text)
    if anew and not sys.stdout.isatty():
        # What was written cannot be taken back, and must not be taken for the answer.
        print_summary(completion)
        raise CommandError("stdout has void text before the answer: use --json", NEGATIVE)
    return completion


def _end_line(text: str, *, always: bool = False) -> None:
    if (always or sys.stdout.isatty()) and not text.endswith("\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()
