"""One call for the questions of a batch: asked together, told apart as the reply streams.

``merge_plan`` says for which it pays, ``merge_prompt`` writes the call, ``merge_reply`` reads the
reply and says which parts can be trusted, ``merge_shares`` shares the bill out. The others, and
parts that cannot be trusted, are asked alone, as ``fan_out`` does it.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mge_cache_server import merge_plan
from mge_cache_server.errors import AskError, UpstreamRefusedError
from mge_cache_server.fan_out import start_call
from mge_cache_server.generation import Reply, Strategy
from mge_cache_server.merge_plan import Candidate
from mge_cache_server.merge_prompt import merged_call
from mge_cache_server.merge_reply import ReplyParser
from mge_cache_server.merge_shares import share_cost, share_usage
from mge_cache_server.upstream_events import Ended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mge_cache_server.batch_counts import BatchCounts
    from mge_cache_server.fan_out import FanOut
    from mge_cache_server.generation import Question
    from mge_cache_server.merge_prompt import MergedCall
    from mge_cache_server.merge_reply import Parsed
    from mge_cache_server.prices import Prices
    from mge_cache_server.slots import Slot
    from mge_cache_server.upstream import Upstream

MERGEABLE = frozenset(
    {"model", "max_tokens", "system", "temperature", "top_p", "top_k", "metadata", "service_tier"}
)
"""Parameters that mean the same for many questions in one call as for each alone. Stop sequences
would end all answers, thinking is of all of them; what nobody knows goes alone."""

_NONCE_BYTES = 12
_WHOLE = frozenset({"end_turn", "max_tokens"})
"""Stop reasons after which a reply's complete parts are what the model had to say."""


class Merge:
    """Asks what pays in one call, and the rest alone."""

    def __init__(
        self, upstream: Upstream, prices: Prices, fan_out: FanOut, counts: BatchCounts
    ) -> None:
        self._upstream = upstream
        self._prices = prices
        self._fan_out = fan_out
        self._counts = counts

    def prepare(self, slot: Slot) -> None:
        """See ``Dispatch``: a question alone goes the way of the others."""
        self._fan_out.prepare(slot)

    async def send(self, slots: Sequence[Slot]) -> None:
        """Answer each slot, or refuse it."""
        together = await self._worth_merging(slots)
        alone = [slot for slot in slots if slot not in together]
        async with asyncio.TaskGroup() as calls:
            if alone:
                calls.create_task(self._fan_out.send(alone))
            if together:
                start_call(calls, together, self._ask(together))

    async def _worth_merging(self, slots: Sequence[Slot]) -> list[Slot]:
        able = [slot for slot in slots if _is_mergeable(slot.question)]
        if not able:
            return []
        question = able[0].question
        await self._prices.prepare(question.model)
        chosen = merge_plan.worth_merging(
            [_candidate(slot.question) for slot in able],
            system_tokens=merge_plan.estimate_tokens(question.body.get("system", "")),
            prices=self._prices.of(question.model),
            cache_min_tokens=merge_plan.cacheable_from(question.model),
            cache_warm=self._fan_out.is_warm(question.group),
        )
        return [slot for slot, is_chosen in zip(able, chosen, strict=True) if is_chosen]

    async def _ask(self, slots: Sequence[Slot]) -> None:
        question, nonce = slots[0].question, secrets.token_hex(_NONCE_BYTES)
        call = merged_call(
            [slot.question.prompt or "" for slot in slots],
            system=question.body.get("system", ""),
            nonce=nonce,
        )
        parser = ReplyParser(len(slots), nonce)
        messages = [{"role": "user", "content": call.user_text}]
        failed: list[tuple[Slot, Reply | None]] = []
        try:
            async with aclosing(self._upstream.stream(self._body(slots, call), messages)) as events:
                async for event in events:
                    match event:
                        case str():
                            for delta in parser.feed(event):
                                slots[delta.index].feed(delta.text)
                        case Ended():
                            failed = self._tell_apart(slots, parser.finish(), event)
        except UpstreamRefusedError:
            # Together they may be too long: each has a right to be refused by itself.
            failed = [(slot, None) for slot in slots]
        except AskError as exc:
            for slot in slots:
                slot.refuse(exc)
        # Not before: each needs a permit, and the merged call had one until here.
        await self._ask_alone(failed)

    def _body(self, slots: Sequence[Slot], call: MergedCall) -> dict[str, Any]:
        question = slots[0].question
        system: str | list[dict[str, Any]] = call.system
        if call.shared_system and self._fan_out.is_warm(question.group):
            mark = {"cache_control": {"type": "ephemeral"}}
            system = [
                {"type": "text", "text": call.shared_system, **mark},
                {"type": "text", "text": call.instructions},
            ]
        max_tokens = merge_plan.merged_max_tokens([_candidate(slot.question) for slot in slots])
        return {**question.body, "system": system, "max_tokens": max_tokens}

    def _tell_apart(
        self, slots: Sequence[Slot], parsed: Parsed, end: Ended
    ) -> list[tuple[Slot, Reply | None]]:
        """Give the answers out; return who got none, with what they have paid for."""
        replies = self._shares(slots, parsed, end)
        failed: list[tuple[Slot, Reply | None]] = []
        for slot, part, reply in zip(slots, parsed.parts, replies, strict=True):
            if part.trusted and end.stop_reason in _WHOLE:
                slot.settle(reply)
            else:
                failed.append((slot, reply))
        return failed

    def _shares(self, slots: Sequence[Slot], parsed: Parsed, end: Ended) -> list[Reply]:
        model = slots[0].question.model
        usages = share_usage(
            end.usage,
            _input_weights(slots),
            [merge_plan.estimate_tokens(part.text) for part in parsed.parts],
        )
        cost_usd = self._prices.cost_usd(model, end.usage)
        costs = share_cost(cost_usd or 0.0, usages)
        return [
            Reply(
                text=part.text,
                stop_reason="end_turn",
                usage=usage,
                cost_usd=share_usd,
                priced=cost_usd is not None,
                compute_s=end.seconds,
                batch_size=len(slots),
                strategy=Strategy.MERGE,
            )
            for part, usage, share_usd in zip(parsed.parts, usages, costs, strict=True)
        ]

    async def _ask_alone(self, failed: Sequence[tuple[Slot, Reply | None]]) -> None:
        async with asyncio.TaskGroup() as calls:
            for slot, already in failed:
                if slot.is_wanted:
                    self._counts.asked_alone += 1
                    slot.restart()
                    start_call(calls, [slot], self._fan_out.ask(slot, paid=already))


def _is_mergeable(question: Question) -> bool:
    system = question.body.get("system", "")
    return (
        question.prompt is not None
        and isinstance(system, str)
        and question.body.keys() <= MERGEABLE
    )


def _candidate(question: Question) -> Candidate:
    return Candidate(merge_plan.estimate_tokens(question.prompt or ""), question.max_tokens)


def _input_weights(slots: Sequence[Slot]) -> list[int]:
    """Weigh each question by its own tokens, and an equal share of the system prompt's."""
    system = merge_plan.estimate_tokens(slots[0].question.body.get("system", ""))
    return [_candidate(slot.question).prompt_tokens + system // len(slots) for slot in slots]
