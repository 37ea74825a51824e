"""``mge-cache rag query`` and ``rag store``: one retrieval's result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from mge_cache_server.cli.entries import Duration, tell_stored
from mge_cache_server.cli.failures import NEGATIVE, CommandError
from mge_cache_server.cli.rag_input import (
    rag_identity_options,
    read_documents,
    read_query,
    write_document,
)
from mge_cache_server.cli.sidecar import connect, json_option, target_option

if TYPE_CHECKING:
    from typing import BinaryIO

    from mge_cache import RagHit
    from mge_cache_server.cli.rag_input import RagIdentity

_LOOK_ONLY_S = 0.01
"""A miss hands out a lease: the shortest there is, as nothing will be computed under it."""


@click.group(short_help="Look a retrieval's result up, or store one.")
def rag() -> None:
    """Look a retrieval's result up by a query's embedding, or store one.

    \b
      mge-cache rag store -m minilm -c faq -e query.json -d found.jsonl "How do I log in?"
      mge-cache rag query -m minilm -c faq -e query.json "How do I log in?"
    """


@rag.command(short_help="Look a retrieval's result up.")
@rag_identity_options
@target_option
@json_option
@click.option(
    "-k", "--top-k", type=click.IntRange(1, 100), default=10, show_default=True, help="Documents."
)
@click.option("--min-similarity", type=float, help="Raises the sidecar's threshold, a cosine.")
@click.option("--exact", is_flag=True, help="Only the result of the same query.")
@click.option("--certified", is_flag=True, help="Only what the search itself would return.")
@click.option("-v", "--verbose", is_flag=True, help="Say more about the hit on stderr.")
def query(
    *,
    identity: RagIdentity,
    target: str | None,
    as_json: bool,
    top_k: int,
    min_similarity: float | None,
    exact: bool,
    certified: bool,
    verbose: bool,
) -> None:
    """Look a retrieval's result up and print its documents as JSON lines. Exit code 1: none.

    \b
      mge-cache rag query -m minilm -c faq -e query.json "How do I log in?"
      mge-cache rag query -m minilm -c faq -e query.f32 --certified -v
      embed "How do I log in?" | mge-cache rag query -m minilm -c faq -e - --json
    """
    from mge_cache import Certainty, RagMiss  # noqa: PLC0415 (not for `serve`)

    asked = read_query(identity)
    with connect(target) as client:
        found = client.query_rag(
            asked,
            top_k=top_k,
            min_similarity=min_similarity,
            allow_similar=not exact,
            min_certainty=Certainty.CERTIFIED if certified else Certainty.SIMILAR,
            lease_ttl_s=_LOOK_ONLY_S,
        )
    if isinstance(found, RagMiss):
        if as_json:
            click.echo(json.dumps({"hit": False, "degraded": found.degraded}))
            raise click.exceptions.Exit(NEGATIVE)
        why = "; the sidecar cannot ask its store" if found.degraded else ""
        raise CommandError(f"miss{why}", NEGATIVE)
    documents = [write_document(document) for document in found.documents]
    if as_json:
        click.echo(json.dumps({**_members(found), "documents": documents}, ensure_ascii=False))
        return
    for document in documents:
        click.echo(json.dumps(document, ensure_ascii=False))
    if verbose:
        for name, value in _members(found).items():
            click.echo(f"{name}: {value}", err=True)


@rag.command(short_help="Store a retrieval's result.")
@rag_identity_options
@target_option
@json_option
@click.option(
    "-d",
    "--documents",
    type=click.File("rb", lazy=True),
    required=True,
    help="What was found, best first, from a file, - for stdin: JSON lines with id, score, "
    "content or content_base64, metadata, embedding.",
)
@click.option(
    "-k",
    "--top-k",
    type=click.IntRange(1, 100),
    help="For how many documents the search was asked.  [default: as many as there are]",
)
@click.option(
    "--exact-search",
    is_flag=True,
    help="The search was exact, over the embeddings that the documents come with.",
)
@click.option("--ttl", type=Duration(), help="Time to live, e.g. 1h.  [default: the sidecar's]")
@click.option("--masterplan", help="The masterplan that the result belongs to.")
@click.option("--tag", "tags", multiple=True, help="A tag to invalidate by; may be repeated.")
@click.option("--cost", "cost_usd", type=click.FloatRange(0), help="Cost in US dollars.")
@click.option("--preloaded", is_flag=True, help="Do not count the cost as spent now.")
def store(
    *,
    identity: RagIdentity,
    target: str | None,
    as_json: bool,
    documents: BinaryIO,
    top_k: int | None,
    exact_search: bool,
    ttl: float | None,
    masterplan: str | None,
    tags: tuple[str, ...],
    cost_usd: float | None,
    preloaded: bool,
) -> None:
    """Store a retrieval's result. Exit code 1: it was not stored.

    \b
      mge-cache rag store -m minilm -c faq -e query.json -d found.jsonl "How do I log in?"
    """
    if documents.name == identity.embedding.name == "-":
        raise click.UsageError("--embedding and --documents cannot both be read from stdin")
    asked = read_query(identity)
    found = read_documents(documents)
    with connect(target) as client:
        result = client.store_rag(
            asked,
            found,
            top_k=top_k,
            exact_search=exact_search,
            cost_usd=cost_usd,
            ttl_s=ttl,
            masterplan=masterplan,
            tags=tags,
            preloaded=preloaded,
        )
    tell_stored(result, as_json=as_json)


def _members(hit: RagHit) -> dict[str, object]:
    return {
        "hit": True,
        "kind": hit.kind.value,
        "similarity": hit.similarity,
        "reranked": hit.reranked,
        "certified": hit.certified,
        **({"cached_query": hit.cached_query} if hit.cached_query else {}),
        "source": hit.source.value,
        "cost_saved_usd": hit.cost_saved_usd,
        "age_s": round(hit.age_s, 3),
        "remaining_ttl_s": round(hit.remaining_ttl_s, 3),
        "degraded": hit.degraded,
    }
