"""Shares out the bill of a merged call, so that the shares add up to it."""

from __future__ import annotations

from math import fsum
from typing import TYPE_CHECKING

from mge_cache_server.model import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

_WEIGHTS = (1.0, 5.0, 0.1, 1.25)
"""Of input, output, cache reads and writes: the ratios of Anthropic's prices."""


def share_usage(
    total: Usage, input_weights: Sequence[int], output_weights: Sequence[int]
) -> list[Usage]:
    """Share the tokens of a call out: those read by the first weights, those written by the second.

    Fair weights are a request's own tokens and an equal share of what all have in common, and the
    tokens of its answer; all 0 means equal shares. Each field adds up to that of ``total`` exactly,
    and none is off by a token from its exact share. Raises ``ValueError`` if there are no weights,
    not as many of both, or negative ones.
    """
    if len(input_weights) != len(output_weights):
        raise ValueError("there must be as many input weights as output weights")
    read, written, cache_read, cache_write = (
        _largest_remainder(tokens, weights)
        for tokens, weights in (
            (total.input_tokens, input_weights),
            (total.output_tokens, output_weights),
            (total.cache_read_tokens, input_weights),
            (total.cache_write_tokens, input_weights),
        )
    )
    return [Usage(*fields) for fields in zip(read, written, cache_read, cache_write, strict=True)]


def share_cost(total_usd: float, shares: Sequence[Usage]) -> list[float]:
    """Share the cost of a call out by what the tokens of each share cost.

    The largest share takes what rounding leaves, so that they add up to ``total_usd`` within one
    rounding, and none is negative. Without any tokens the shares are equal. Raises ``ValueError``
    if there are no shares.
    """
    if not shares:
        raise ValueError("there must be at least one share")
    weights = [_weight(usage) for usage in shares]
    whole = fsum(weights)
    if not whole:
        weights, whole = [1.0] * len(shares), float(len(shares))
    costs = [total_usd * (weight / whole) for weight in weights]
    largest = max(range(len(costs)), key=weights.__getitem__)
    costs[largest] = 0.0
    costs[largest] = max(0.0, total_usd - fsum(costs))
    return costs


def _largest_remainder(tokens: int, weights: Sequence[int]) -> list[int]:
    if not weights or min(weights) < 0:
        raise ValueError("there must be weights, and none below 0")
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    shares, remainders = [], []
    for weight in weights:
        share, remainder = divmod(tokens * weight, whole)
        shares.append(share)
        remainders.append(remainder)
    by_remainder = sorted(range(len(weights)), key=lambda index: -remainders[index])
    for index in by_remainder[: tokens - sum(shares)]:
        shares[index] += 1
    return shares


def _weight(usage: Usage) -> float:
    tokens = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
    )
    return fsum(count * weight for count, weight in zip(tokens, _WEIGHTS, strict=True))
