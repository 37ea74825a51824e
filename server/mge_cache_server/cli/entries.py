"""``mge-cache get``, ``set`` and ``key``: one prompt's answer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from mge_cache_server.cli.failures import NEGATIVE, REFUSED, CommandError
from mge_cache_server.cli.identity import identity_options, read_request
from mge_cache_server.cli.sidecar import connect, json_option, target_option
from mge_cache_server.config_parse import format_duration, parse_duration
from mge_cache_server.jsonl import write_body

if TYPE_CHECKING:
    from typing import BinaryIO

    from mge_cache import Hit, SetResult
    from mge_cache_server.cli.identity import Identity


class Duration(click.ParamType[float]):
    """A duration such as 24h; the value is in seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the text."""
        try:
            return value if isinstance(value, float) else parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(short_help="Look an answer up.")
@identity_options
@target_option
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Say more about the answer on stderr.")
def get(
    *,
    identity: Identity,
    target: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Look an answer up and print it. Exit code 1: there is none.

    This is a peek: it counts neither as a hit nor as a miss in the statistics.

    \b
      mge-cache get -m claude-sonnet-4-5 "Why is the sky blue?"
      mge-cache get -m claude-sonnet-4-5 -t 0 -p max_tokens=100 -p 'system="Be brief"' -f prompt.txt
      mge-cache get --key 3f2a...
    """
    from mge_cache import Miss  # noqa: PLC0415 (not for `serve`)

    request = read_request(identity)
    with connect(target) as client:
        found = client.get(request)
    if isinstance(found, Miss):
        why = "; the sidecar cannot ask its store" if found.degraded else ""
        if as_json:
            click.echo(json.dumps({"hit": False, "degraded": found.degraded}))
            raise click.exceptions.Exit(NEGATIVE)
        raise CommandError(f"miss{why}", NEGATIVE)
    if as_json:
        click.echo(json.dumps(_members(found), ensure_ascii=False))
        return
    sys.stdout.buffer.write(found.answer.body)
    if sys.stdout.isatty() and not found.answer.body.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    if verbose:
        for name, value in _members(found).items():
            if not name.startswith("answer"):
                click.echo(f"{name}: {value}", err=True)


@click.command("set", short_help="Store an answer.")
@identity_options
@target_option
@json_option
@click.option("--answer", help="The answer as text.")
@click.option("--answer-file", type=click.File("rb"), help="The answer from a file, - for stdin.")
@click.option("--content-type", default="", help="What the answer's bytes are.")
@click.option("--ttl", type=Duration(), help="Time to live, e.g. 24h.  [default: the sidecar's]")
@click.option("--masterplan", help="The masterplan that the answer belongs to.")
@click.option("--tag", "tags", multiple=True, help="A tag to invalidate by; may be repeated.")
@click.option("--input-tokens", type=click.IntRange(0), help="What the answer consumed.")
@click.option("--output-tokens", type=click.IntRange(0))
@click.option("--cost", "cost_usd", type=click.FloatRange(0), help="Cost in US dollars.")
@click.option("--preloaded", is_flag=True, help="Do not count the cost as spent now.")
def set_(
    *,
    identity: Identity,
    target: str | None,
    as_json: bool,
    answer: str | None,
    answer_file: BinaryIO | None,
    content_type: str,
    ttl: float | None,
    masterplan: str | None,
    tags: tuple[str, ...],
    input_tokens: int | None,
    output_tokens: int | None,
    cost_usd: float | None,
    preloaded: bool,
) -> None:
    """Store an answer. Exit code 1: it was not stored.

    \b
      mge-cache set -m claude-sonnet-4-5 "Why is the sky blue?" --answer "Rayleigh scattering."
      mge-cache set -m claude-sonnet-4-5 -f prompt.txt --answer-file answer.txt --tag physics \\
        --input-tokens 900 --output-tokens 250
    """
    from mge_cache import Answer, Usage  # noqa: PLC0415

    if not identity.model:
        raise click.UsageError("--model is required to store an answer")
    if (answer is None) == (answer_file is None):
        raise click.UsageError("give either --answer or --answer-file")
    request = read_request(identity)
    known = input_tokens is not None or output_tokens is not None
    usage = Usage(input_tokens=input_tokens or 0, output_tokens=output_tokens or 0)
    plain = "text/plain; charset=utf-8" if answer is not None else ""
    body = answer.encode() if answer is not None else answer_file.read() if answer_file else b""
    stored = Answer(
        body,
        content_type=content_type or plain,
        usage=usage if known else None,
        cost_usd=cost_usd,
    )
    with connect(target) as client:
        result = client.set(
            request, stored, ttl_s=ttl, masterplan=masterplan, tags=tags, preloaded=preloaded
        )
    tell_stored(result, as_json=as_json)


def tell_stored(result: SetResult, *, as_json: bool) -> None:
    """Print what became of an entry; end the command if it was not stored."""
    from mge_cache import SetStatus  # noqa: PLC0415

    if as_json:
        click.echo(
            json.dumps(
                {"status": result.status.value, "ttl_s": result.ttl_s, "cost_usd": result.cost_usd}
            )
        )
    for_ = f"for {format_duration(float(round(result.ttl_s)))}"
    if result.status is SetStatus.STORED:
        if not as_json:
            cost = f", cost ${result.cost_usd:.6f}" if result.cost_usd else ""
            click.echo(f"stored {for_}{cost}")
    elif result.status is SetStatus.KEPT_LOCALLY:
        click.echo(f"mge-cache: kept {for_} by this sidecar only: its store is down", err=True)
    elif result.status is SetStatus.OVERTAKEN:
        raise CommandError("not stored: an invalidation overtook it", NEGATIVE)
    else:
        raise CommandError("not stored: the cache is switched off", REFUSED)


@click.command(short_help="Print a prompt's canonical key.")
@identity_options
def key(
    *,
    identity: Identity,
) -> None:
    """Print the canonical key of a prompt, 64 hexadecimal digits. Needs no sidecar.

    \b
      mge-cache key -m claude-sonnet-4-5 -t 0 "Why is the sky blue?"
    """
    request = read_request(identity)
    click.echo(request.key.hex())


def _members(hit: Hit) -> dict[str, object]:
    answer = hit.answer
    usage = answer.usage
    return {
        "hit": True,
        **write_body("answer", answer.body),
        "content_type": answer.content_type,
        "source": answer.source.value,
        "cost_saved_usd": answer.cost_saved_usd,
        "age_s": round(hit.age_s, 3),
        "remaining_ttl_s": round(hit.remaining_ttl_s, 3),
        "degraded": hit.degraded,
        "input_tokens": usage.input_tokens if usage else 0,
        "output_tokens": usage.output_tokens if usage else 0,
    }
