"""``Generate``: replies to merged calls in which the model did not keep to the form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.scripted_upstream import TOKENS_IN
from tests.rpc.test_generate_merge import ask_merged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]

SCRAMBLED = {
    "in order": ("{1}\nOne\n{2}\nTwo\n{3}\nThree\n{end}", {1, 2, 3}),
    "missing": ("{1}\nOne\n{3}\nThree\n{end}", {3}),
    "empty": ("{1}\nOne\n{2}\n \n{3}\nThree\n{end}", {1, 3}),
    "swapped": ("{2}\nTwo\n{1}\nOne\n{3}\nThree\n{end}", {3}),
    "doubled": ("{1}\nOne\n{2}\nTwo\n{2}\nTwo\n{3}\nThree\n{end}", {3}),
    "cut": ("{1}\nOne\n{2}\nTwo\n{3}\nThr", {1, 2}),
    "cut in a marker": ("{1}\nOne\n{2}\nTwo\n{3}\nThree\n{end", {1, 2}),
    "a preface": ("Gladly!\n{1}\nOne\n{2}\nTwo\n{3}\nThree\n{end}", {2, 3}),
    "an unknown number": ("{1}\nOne\n{9}\nTwo\n{3}\nThree\n{end}", {3}),
    "a quoted marker": ("{1}\nOne\n{2}\nTwo {3} two\n{3}\nThree\n{end}", {1, 3}),
    "no marker": ("One, two, three.", set()),
    "nothing": ("", set()),
}


@pytest.mark.parametrize("piece_bytes", [0, 1], ids=["whole", "bytes"])
@pytest.mark.parametrize(("scrambled", "kept"), SCRAMBLED.values(), ids=SCRAMBLED)
async def test_everybody_gets_their_own_answer(
    generating: Generating,
    upstream: ScriptedUpstream,
    scrambled: str,
    kept: set[int],
    piece_bytes: int,
) -> None:
    merged = await ask_merged(generating, upstream)
    call = merged.call
    call.piece_bytes = piece_bytes
    lines = {f"{{{number}}}": mark for number, mark in enumerate(merged.marks, start=1)}
    lines |= {"{9}": merged.marks[0].replace("answer 1", "answer 9")}
    lines |= {"{end}": merged.end, "{end": merged.end[:-1]}
    for name, line in lines.items():
        scrambled = scrambled.replace(name, line)
    call.begin()
    step = 1 if piece_bytes else 17  # within each marker
    for start in range(0, len(scrambled), step):
        call.say(scrambled[start : start + step])
    call.end("max_tokens" if "Thr" in scrambled and merged.end not in scrambled else "end_turn")

    alone = await upstream.batch(3 - len(kept))
    assert alone.keys() == merged.prompts(*({0, 1, 2} - {number - 1 for number in kept}))
    for prompt, again in alone.items():
        again.answer(f"alone: {prompt}")
    seen = dict.fromkeys(merged.ids, "")
    done: dict[str, pb.GenerateCompletion] = {}
    while len(done) < len(seen):
        reply = await merged.talk.reply()
        match reply.WhichOneof("event"):
            case "delta":
                seen[reply.id] += reply.delta
            case "restart":
                seen[reply.id] = ""
            case "completion":
                done[reply.id] = reply.completion
            case _:
                raise AssertionError(reply)

    for number, name in enumerate(merged.ids, start=1):
        own = ["One", "Two", "Three"][number - 1]
        assert done[name].text == (own if number in kept else f"alone: prompt {name}")
        assert seen[name] == done[name].text
    billed = TOKENS_IN * (1 + len(alone))
    assert sum(each.usage.input_tokens for each in done.values()) == billed
    stats = (await merged.stub.Stats(pb.StatsRequest())).batcher
    assert stats.asked_alone == len(alone)
    assert stats.upstream_in_flight == 0


async def test_what_is_asked_again_needs_no_second_permit(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    merged = await ask_merged(generating, upstream, count=2, upstream_calls_max=1)
    merged.call.answer(f"{merged.marks[0]}\nOne\n{merged.end}")
    for _ in range(2):
        again = await upstream.call()
        assert upstream.waiting == 0, "one call at a time"
        again.answer("alone")
    assert await merged.texts() == ["alone", "alone"]


@pytest.mark.parametrize("how", ["cut", "error"])
async def test_a_merged_call_that_breaks_fails_what_is_not_complete(
    generating: Generating, upstream: ScriptedUpstream, how: str
) -> None:
    merged = await ask_merged(generating, upstream, count=2)
    merged.call.begin()
    merged.call.say(f"{merged.marks[0]}\nOne\n{merged.marks[1]}\nTw")
    merged.call.cut() if how == "cut" else merged.call.fail_amid("api_error")
    failed: set[str] = set()
    while len(failed) < 2:
        reply = await merged.talk.reply()
        if reply.WhichOneof("event") != "delta":
            assert reply.error.code == 14
            failed.add(reply.id)
    assert failed == set(merged.ids)
    assert upstream.calls == 1
