"""The local Messages API answers a merged call as it answers its requests one by one."""

from __future__ import annotations

import pytest

from mge_cache_server.merge_prompt import merged_call
from tests.messages_server.answers import Reply, reply_to
from tests.unit.obedient import parse

NONCE = "0123456789abcdef01234567"
MODEL = "claude-haiku-4-5"


def reply(*texts: str, max_tokens: int = 1000) -> Reply:
    return reply_to(list(texts), model=MODEL, max_tokens=max_tokens, delay=1.0)


@pytest.mark.parametrize("system", ["", "Answer as a careful engineer would."])
def test_each_request_gets_the_answer_that_it_would_get_alone(system: str) -> None:
    prompts = ["Write a test for json.loads.", "Explain\n\nasyncio.sleep", "Name three colours."]
    call = merged_call(prompts, system=system, nonce=NONCE)

    merged = reply(call.system, call.user_text)

    parsed = parse(merged.text, len(prompts), NONCE)
    assert all(part.trusted for part in parsed.parts)
    alone = [reply(*([system] if system else []), prompt).text for prompt in prompts]
    assert [part.text for part in parsed.parts] == alone
    assert not merged.cut


def test_a_merged_answer_is_cut_by_max_tokens() -> None:
    call = merged_call(["one", "two"], system="", nonce=NONCE)
    merged = reply(call.system, call.user_text, max_tokens=30)
    assert (merged.output_tokens, merged.cut) == (30, True)


def test_what_only_mentions_requests_is_no_merged_call() -> None:
    assert reply("Be brief.", "The user's message holds requests.").text.startswith("This ")
