"""One call for many: what it holds while it runs, and whose text is whose."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server.batch_counts import BatchCounts
from mge_cache_server.fan_out import FanOut
from mge_cache_server.generation import Reply, Strategy
from mge_cache_server.merge_call import Merge
from mge_cache_server.merge_prompt import answer_line, end_line
from mge_cache_server.metrics_batcher import BatchHistograms
from mge_cache_server.slots import Slot
from tests.unit.dictated import INPUT_USD, LONG_SYSTEM, OUTPUT_USD, Asked, DictatedUpstream, prices
from tests.unit.questions import make_request
from tests.unit.scene import turns
from tests.unit.virtual_time import virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn


class Asking:
    """A batch that is being asked in one call."""

    def __init__(self, prompts: list[str], *, calls_max: int = 32) -> None:
        self.upstream = DictatedUpstream(calls_max)
        upstream: Any = self.upstream
        self.counts = BatchCounts(BatchHistograms())
        fan_out = FanOut(upstream, prices())
        merge = Merge(upstream, prices(), fan_out, self.counts)
        self.seen = [""] * len(prompts)
        self.slots: list[Slot] = []
        self.readers = []
        for prompt in prompts:
            request = make_request(prompt, system=LONG_SYSTEM, strategy=Strategy.MERGE)
            slot = Slot(request, gone=lambda: None)
            self.slots.append(slot)
            self.readers.append(slot.join((), lambda: None))
        self.sending = asyncio.ensure_future(merge.send(self.slots))

    async def call(self) -> Asked:
        """Return the merged call."""
        await turns()
        [call] = self.upstream.calls
        assert call.prompts == [slot.question.prompt for slot in self.slots]
        return call

    def read(self, index: int) -> None:
        progress = self.readers[index].take()
        if progress.restarted:
            self.seen[index] = ""
        self.seen[index] += progress.text

    async def replies(self) -> list[Reply]:
        """Answer what is asked alone, and return what everybody gets."""
        await turns()
        for again in self.upstream.calls[1:]:
            again.begin()
            again.say("alone: ")
            await turns()
            again.say(again.prompts[0])
            again.end()
        async with asyncio.timeout(1.0):
            await self.sending
        for index in range(len(self.slots)):
            self.read(index)
        return [slot.answer.result() for slot in self.slots]


@virtual_time
async def test_what_is_asked_again_needs_no_second_permit() -> None:
    asking = Asking(["one", "two"], calls_max=1)
    call = await asking.call()
    call.begin()
    call.say(f"{answer_line(call.nonce, 1)}\nOne\n{end_line(call.nonce)}")
    call.end()
    for _ in range(2):
        await turns()
        [again] = asking.upstream.live
        again.say("alone")
        again.end()
    async with asyncio.timeout(1.0):
        await asking.sending
    assert [slot.answer.result().text for slot in asking.slots] == ["alone", "alone"]
    assert asking.upstream.limiter.in_flight == 0


# What a text may look like: with lines, white space, and what some other batch's markers are.
LOOKALIKES = st.sampled_from(
    [
        "[",
        "\n[",
        "[0123456789abcdef01234567 answer 2]",
        "[0123456789abcdef01234567 end]",
        "answer 1",
    ]
)
TEXTS = st.lists(st.text(max_size=8) | LOOKALIKES | st.just("\n"), max_size=6).map("".join)

Blocks = list[list[str]]
"""A reply: each marker, with the text that was written under it."""


@dataclass(frozen=True)
class Disturbance:
    """What the model does to its reply: ``shuffle`` the blocks, ``scribble`` on the whole."""

    name: str
    shuffle: Callable[[Blocks], Blocks]
    scribble: Callable[[str, str], str] = lambda reply, _: reply

    def __repr__(self) -> str:
        return self.name


@st.composite
def disturbances(draw: DrawFn, count: int) -> Disturbance:
    """No two kinds at once: markers that go missing and come again elsewhere cannot be detected."""
    kind = draw(
        st.sampled_from(["none", "missing", "swapped", "damaged", "empty", "copied", "preface"])
    )
    places = draw(st.sets(st.integers(0, count), min_size=1, max_size=2))
    order = draw(st.permutations(range(count + 1)))
    where = draw(st.integers(0, 200))
    number = draw(st.integers(0, count + 2))
    form = draw(st.sampled_from(["\n{}\n", "{}", " {}", "{}\n", "\n> {}\n"]))

    def shuffle(blocks: Blocks) -> Blocks:
        marks = [block[0] for block in blocks]
        for place in places:
            match kind:
                case "missing":
                    blocks[place] = blocks[place][1:]
                case "damaged":
                    blocks[place][0] = marks[place][: where % len(marks[place])]
                case "empty":
                    blocks[place][1:] = [" "]
        if kind == "swapped":
            return [[marks[i], *block[1:]] for i, block in zip(order, blocks, strict=True)]
        return blocks

    def scribble(reply: str, nonce: str) -> str:
        if kind == "preface":
            return f"Gladly!\n{reply}"
        if kind != "copied":
            return reply
        at = where % (len(reply) + 1)
        return reply[:at] + form.format(answer_line(nonce, number)) + reply[at:]

    return Disturbance(kind, shuffle, scribble)


@st.composite
def merged_replies(draw: DrawFn) -> tuple[list[str], Disturbance, int | None, str, list[int]]:
    count = draw(st.integers(2, 5))
    texts = [f"{number}: {draw(TEXTS)}" for number in range(count)]
    cut = draw(st.none() | st.integers(0, 400))
    stop_reason = draw(st.sampled_from(["end_turn", "end_turn", "max_tokens", "refusal"]))
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    return texts, draw(disturbances(count)), cut, stop_reason, sizes


@given(merged_replies(), st.lists(st.integers(0, 4), max_size=20))
def test_everybody_gets_exactly_what_was_written_for_them(
    case: tuple[list[str], Disturbance, int | None, str, list[int]], reads: list[int]
) -> None:
    texts, disturbance, cut, stop_reason, sizes = case

    @virtual_time
    async def run() -> None:
        asking = Asking([f"prompt {number}" for number in range(len(texts))])
        call = await asking.call()
        marks = [answer_line(call.nonce, number) for number in range(1, len(texts) + 1)]
        blocks = [[mark, text] for mark, text in zip(marks, texts, strict=True)]
        blocks = disturbance.shuffle([*blocks, [end_line(call.nonce)]])
        reply = "\n".join(line for block in blocks for line in block)
        reply = disturbance.scribble(reply, call.nonce)
        reply = reply if cut is None else reply[:cut]
        call.begin()
        turn = 0
        while reply:
            size = sizes[turn % len(sizes)]
            call.say(reply[:size])
            reply = reply[size:]
            await turns(2)
            if turn < len(reads):
                asking.read(reads[turn] % len(texts))
            turn += 1
        call.end(stop_reason)
        replies = await asking.replies()

        alone = {again.prompts[0] for again in asking.upstream.calls[1:]}
        for number, (text, got) in enumerate(zip(texts, replies, strict=True)):
            again = f"prompt {number}" in alone
            if again:
                assert got.text == f"alone: prompt {number}"
            elif disturbance.name == "copied":
                assert _is_its_own(got.text, text.strip(), call.nonce, is_cut=cut is not None)
            elif disturbance.name == "swapped" and cut is not None:
                # With the rest cut off, nothing shows that the model took the wrong number.
                assert got.text in {each.strip() for each in texts}
            else:
                assert got.text == text.strip()
            assert asking.seen[number] == got.text
        if disturbance.name == "none" and cut is None and stop_reason == "end_turn":
            assert not alone
        assert asking.counts.asked_alone == len(alone)
        _check_bill(asking, replies)
        assert asking.upstream.limiter.in_flight == 0
        assert len(asyncio.all_tasks()) == 1

    run()


def _is_its_own(got: str, text: str, nonce: str, *, is_cut: bool) -> bool:
    """Whether all of ``got`` was written as, or into, one part, although a marker was copied.

    A copy that falls into a marker leaves its pieces in the parts on either side; and where the
    genuine one is cut off, a part ends early, at the copy.
    """
    if is_cut and text.startswith(got):
        return True
    before, found, after = got.partition(text)
    return found == text and len(before + after) <= len(answer_line(nonce, 1)) + 4


def _check_bill(asking: Asking, replies: list[Reply]) -> None:
    bills = [call.billed for call in asking.upstream.calls]
    read = sum(bill.input_tokens for bill in bills)
    written = sum(bill.output_tokens for bill in bills)
    assert sum(reply.usage.input_tokens for reply in replies) == read
    assert sum(reply.usage.output_tokens for reply in replies) == written
    paid_usd = sum(reply.cost_usd for reply in replies)
    assert abs(paid_usd - (read * INPUT_USD + written * OUTPUT_USD)) < 1e-12
