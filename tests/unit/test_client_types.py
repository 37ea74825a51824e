from __future__ import annotations

import copy
import math
import pickle

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from mge_cache import (
    Answer,
    AsyncClient,
    Client,
    InternalError,
    InvalidRequestError,
    MgeCacheError,
    PromptKey,
    PromptRequest,
    ResourceExhaustedError,
    _wire,
    _wire_parts,
    _wire_service,
    errors,
)
from mge_cache._channel import resolve_target
from mge_cache._status import error_of
from mge_cache.v1 import cache_service_pb2 as pb


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("unix:/run/mge/s", "unix:/run/mge/s"),
        ("unix:///run/mge/s", "unix:///run/mge/s"),
        ("unix:relative", "unix:relative"),
        ("/run/mge/s", "unix:/run/mge/s"),
        ("unix-abstract:name", "unix-abstract:name"),
        ("localhost:1", "localhost:1"),
        (" 10.0.0.1:50151\n", "10.0.0.1:50151"),
        ("[::1]:50151", "[::1]:50151"),
        ("dns:///sidecar:50151", "dns:///sidecar:50151"),
        (None, "127.0.0.1:50151"),
        ("", "127.0.0.1:50151"),
    ],
)
def test_targets(monkeypatch: pytest.MonkeyPatch, given: str | None, resolved: str) -> None:
    monkeypatch.delenv("MGE_CACHE_TARGET", raising=False)
    assert resolve_target(given) == resolved
    assert AsyncClient(given).target == Client(given).target == resolved


@pytest.mark.parametrize("given", ["localhost", "localhost:", ":50151", "h:0", "h:65536", "unix:"])
def test_targets_that_name_no_place(given: str) -> None:
    with pytest.raises(InvalidRequestError, match="target"):
        resolve_target(given)


def test_target_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGE_CACHE_TARGET", "unix:/run/s")
    assert resolve_target(None) == "unix:/run/s"
    assert resolve_target("a:1") == "a:1"


def test_nothing_secret_in_a_repr() -> None:
    request = PromptRequest(
        model="m", prompt="SECRET prompt", parameters={"system": "SECRET system"}
    )
    for value in (request, Answer(b"SECRET answer"), PromptKey(key=b"SECRET".ljust(32))):
        assert "SECRET" not in repr(value)
    assert request.key.hex() not in repr(request)


def test_requests_are_equal_if_their_keys_are() -> None:
    request = PromptRequest(model="m", parameters={"a": 1, "b": 2}, namespace="")
    assert request == PromptRequest(model="m", parameters={"b": 2.0, "a": 1}, namespace="default")
    assert request != PromptRequest(model="m", parameters={"a": True, "b": 2})
    assert len({request, copy.copy(request)}) == 1


def test_a_request_does_not_change_with_the_values_it_was_made_of() -> None:
    messages = [{"role": "user", "content": "a"}]
    request = PromptRequest(model="m", parameters={"messages": messages})
    key = request.key
    messages.append({"role": "user", "content": "b"})
    assert request.key == key
    assert request.json_parameters == {"messages": '[{"content":"a","role":"user"}]'}


def test_invalid_requests_name_the_field() -> None:
    def field(make: object) -> str:
        assert callable(make)
        with pytest.raises(InvalidRequestError) as caught:
            make()
        return caught.value.field

    assert field(lambda: PromptRequest(model="")) == "model"
    assert field(lambda: PromptRequest(model="m", temperature=math.nan)) == "temperature"
    assert field(lambda: PromptRequest(model="m", prompt="\ud800")) == "prompt"
    assert field(lambda: PromptRequest(model="m", parameters={"x": math.inf})) == "parameters['x']"
    assert field(lambda: PromptKey(key=b"short")) == "key"


def test_every_error_is_in_the_tree_and_the_docstring() -> None:
    assert errors.__doc__
    tree = [thing for name, thing in vars(errors).items() if name.endswith("Error")]
    assert len(tree) == 13
    for error in tree:
        assert issubclass(error, MgeCacheError)
        assert f" {error.__name__} " in f" {errors.__doc__} ".replace("\n", " ")


def test_reductions_are_shares_of_all_layers() -> None:
    nothing = _wire_service.stats_of(pb.StatsResponse())
    assert (nothing.cost_reduction, nothing.time_reduction) == (0.0, 0.0)
    layers = [
        pb.LayerStats(saved_usd=1, spent_usd=2, saved_seconds=3, computed_seconds=1),
        pb.LayerStats(saved_usd=0, spent_usd=1, saved_seconds=3, computed_seconds=1),
    ]
    some = _wire_service.stats_of(pb.StatsResponse(layers=layers))
    assert (some.cost_reduction, some.time_reduction) == (0.25, 0.75)


def test_errors_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(InvalidRequestError("tags", "too many")))  # noqa: S301
    assert (str(error), error.field) == ("tags: too many", "tags")
    full = ResourceExhaustedError("full", code="RESOURCE_EXHAUSTED", retry_after_s=1.5)
    copied = pickle.loads(pickle.dumps(full))  # noqa: S301
    assert (str(copied), copied.code, copied.retry_after_s) == (
        *("full", "RESOURCE_EXHAUSTED"),
        1.5,
    )


@pytest.mark.parametrize(
    ("details", "field", "text"),
    [
        ("tags: at most 64, not 65", "tags", "tags: at most 64, not 65"),
        ("identity.model: required", "identity.model", "identity.model: required"),
        ("Something: else", "", "Something: else"),
        ("", "", ""),
        (None, "", ""),
    ],
)
def test_invalid_argument(details: str | None, field: str, text: str) -> None:
    error = error_of(grpc.StatusCode.INVALID_ARGUMENT, details)
    assert isinstance(error, InvalidRequestError)
    assert (error.field, str(error)) == (field, text)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "OK"])
def test_every_status_has_an_error(code: grpc.StatusCode) -> None:
    assert isinstance(error_of(code, "x"), MgeCacheError)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, 1e12])
def test_durations_that_have_no_message(seconds: float) -> None:
    with pytest.raises(InvalidRequestError, match="wait_s"):
        _wire.get_request(PromptKey(key=bytes(32)), wait_s=seconds)


def test_durations_round_to_nanoseconds() -> None:
    message = _wire.get_request(PromptKey(key=bytes(32)), wait_s=1.9999999999)
    assert message.wait == Duration(seconds=2)
    assert not message.HasField("lease_ttl")


def test_responses_that_make_no_sense() -> None:
    with pytest.raises(InternalError):
        _wire.found_of(pb.GetPromptResponse())
    with pytest.raises(InternalError):
        _wire.found_of(pb.GetPromptResponse(hit=pb.PromptHit(answer=b"x")))
    with pytest.raises(InternalError):
        _wire_parts.set_result_of(pb.SetPromptResponse())


def test_an_answer_that_has_no_message_is_an_invalid_request() -> None:
    message = _wire.set_request(PromptRequest(model="m"), ttl_s=None, masterplan=None, tags=())
    with pytest.raises(InvalidRequestError, match="answer"):
        _wire.complete(message, Answer(b"x", content_type="\ud800"), lease=None, compute_s=1)


def test_text_of_bytes_that_are_not_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        _ = Answer(b"\xff").text
