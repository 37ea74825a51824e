"""``mge-cache invalidate``."""

from __future__ import annotations

import json

import click

from mge_cache_server.cli.sidecar import connect, json_option, namespace_option, target_option


@click.command(short_help="Make entries unreachable, at once and everywhere.")
@target_option
@namespace_option
@click.option("--key", metavar="HEX", help="The entry with this canonical key.")
@click.option("--masterplan", help="All entries of a masterplan.")
@click.option("--tag", help="All entries with a tag.")
@click.option("--model", help="All entries of a model.")
@click.option("--document", help="All retrieval results that contain this document (its id).")
@click.option("--collection", help="All retrieval results of a collection.")
@click.option("--everything", is_flag=True, help="All entries of the namespace.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before --everything.")
@json_option
def invalidate(
    *,
    target: str | None,
    namespace: str,
    key: str | None,
    masterplan: str | None,
    tag: str | None,
    model: str | None,
    document: str | None,
    collection: str | None,
    everything: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Make entries unreachable, at once and for every sidecar on the same store.

    \b
      mge-cache invalidate --masterplan onboarding-v3
      mge-cache invalidate --document faq-17
      mge-cache invalidate --namespace plans --everything --yes
    """
    chosen = (key, masterplan, tag, model, document, collection, everything or None)
    if sum(each is not None for each in chosen) != 1:
        raise click.UsageError(
            "give one of --key, --masterplan, --tag, --model, --document, --collection, "
            "--everything"
        )
    try:
        digest = None if key is None else bytes.fromhex(key)
    except ValueError:
        raise click.UsageError("--key must be hexadecimal digits") from None
    if everything and not yes:
        click.confirm(f"Invalidate every entry of the namespace {namespace}?", abort=True, err=True)
    with connect(target) as client:
        tick = client.invalidate(
            namespace=namespace,
            key=digest,
            masterplan=masterplan,
            tag=tag,
            model=model,
            document=document,
            collection=collection,
            everything=everything,
        )
    click.echo(json.dumps({"tick": tick}) if as_json else f"invalidated at tick {tick}")
