"""Requests that the contract does not allow, and what is said about each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration

from mge_cache.v1 import cache_service_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

MIB = 1 << 20
MODEL = "model"
NAMES = "must be 1 to 64 characters of A-Z a-z 0-9 . _ -"
CONTROL = "must not contain control characters"
TEMPERATURE = "identity.temperature: must be finite and at least 0"
NOT_A_LEASE = "lease: not a lease that was handed out"


def of(**fields: Any) -> pb.PromptIdentity:
    return pb.PromptIdentity(**{"model": MODEL, "prompt": "p", **fields})


def get(**fields: Any) -> pb.GetPromptRequest:
    return pb.GetPromptRequest(**{"identity": of(), **fields})


def put(**fields: Any) -> pb.SetPromptRequest:
    return pb.SetPromptRequest(**{"identity": of(), "answer": b"a", **fields})


def hold(**fields: Any) -> pb.HoldLeaseRequest:
    return pb.HoldLeaseRequest(**fields)


def invalidate(**fields: Any) -> pb.InvalidateRequest:
    return pb.InvalidateRequest(**fields)


IDENTITIES: dict[str, tuple[pb.PromptIdentity, str]] = {
    "namespace with a space": (of(namespace="a b"), f"namespace: {NAMES}"),
    "namespace too long": (of(namespace="a" * 65), f"namespace: {NAMES}"),
    "namespace in another script": (of(namespace="é"), f"namespace: {NAMES}"),
    "namespace with a line feed": (of(namespace="a\n"), f"namespace: {NAMES}"),
    "no model": (of(model=""), "identity.model: is required"),
    "model too long": (of(model="é" * 129), "identity.model: at most 256 bytes"),
    "control character in the model": (of(model="a\x00"), f"identity.model: {CONTROL}"),
    "nothing that says which prompt": (
        of(prompt=""),
        "identity: needs a key, a prompt or parameters",
    ),
    "key too short": (
        pb.PromptIdentity(model=MODEL, key=b"k" * 31),
        "identity.key: must be 32 bytes, or unset",
    ),
    "key too long": (
        pb.PromptIdentity(model=MODEL, key=b"k" * 33),
        "identity.key: must be 32 bytes, or unset",
    ),
    "key and prompt": (
        of(key=b"k" * 32),
        "identity.key: excludes temperature, prompt and parameters",
    ),
    "key and temperature": (
        pb.PromptIdentity(model=MODEL, key=b"k" * 32, temperature=0),
        "identity.key: excludes temperature, prompt and parameters",
    ),
    "key and parameters": (
        pb.PromptIdentity(model=MODEL, key=b"k" * 32, parameters={"a": "1"}),
        "identity.key: excludes temperature, prompt and parameters",
    ),
    "negative temperature": (of(temperature=-0.1), TEMPERATURE),
    "temperature NaN": (of(temperature=math.nan), TEMPERATURE),
    "temperature infinite": (of(temperature=math.inf), TEMPERATURE),
    "temperature minus infinite": (of(temperature=-math.inf), TEMPERATURE),
    "prompt too large": (
        of(prompt="é" * (2 * MIB) + "x"),
        "identity.prompt: prompt and parameters exceed 4194304 bytes together",
    ),
    "parameters too large": (
        of(parameters={"system": "x" * 4 * MIB}),
        "identity.prompt: prompt and parameters exceed 4194304 bytes together",
    ),
    "too many parameters": (
        of(parameters={str(number): "1" for number in range(65)}),
        "identity.parameters: at most 64",
    ),
    "parameter without a name": (
        of(parameters={"": "1"}),
        "identity.parameters: names must have 1 to 128 bytes",
    ),
    "parameter with a long name": (
        of(parameters={"é" * 65: "1"}),
        "identity.parameters: names must have 1 to 128 bytes",
    ),
}

OTHERS: dict[str, tuple[Message, str]] = {
    "get: no identity": (pb.GetPromptRequest(), "identity.model: is required"),
    "get: wait negative": (
        get(wait=Duration(seconds=-1)),
        "wait: must be 0 s to 600 s, or unset",
    ),
    "get: wait too long": (
        get(wait=Duration(seconds=600, nanos=1)),
        "wait: must be 0 s to 600 s, or unset",
    ),
    "get: wait absurd": (
        get(wait=Duration(seconds=2**63 - 1)),
        "wait: must be 0 s to 600 s, or unset",
    ),
    "get: wait negative in a peek": (
        get(wait=Duration(seconds=-1), peek=True),
        "wait: must be 0 s to 600 s, or unset",
    ),
    "get: lease too short": (
        get(lease_ttl=Duration(nanos=9_000_000)),
        "lease_ttl: must be 0.01 s to 600 s, or unset",
    ),
    "get: lease too long": (
        get(lease_ttl=Duration(seconds=601)),
        "lease_ttl: must be 0.01 s to 600 s, or unset",
    ),
    "get: lease negative": (
        get(lease_ttl=Duration(seconds=-1)),
        "lease_ttl: must be 0.01 s to 600 s, or unset",
    ),
    "set: key without a model": (
        put(identity=pb.PromptIdentity(key=b"k" * 32)),
        "identity.model: is required",
    ),
    "set: no answer": (put(answer=b""), "answer: is required"),
    "set: answer too large": (put(answer=b"x" * (8 * MIB + 1)), "answer: at most 8388608 bytes"),
    "set: content type too long": (put(content_type="x" * 257), "content_type: at most 256 bytes"),
    "set: content type with a line feed": (put(content_type="a\nb"), f"content_type: {CONTROL}"),
    "set: cost negative": (put(cost_usd=-0.01), "cost_usd: must be 0 to 1,000,000"),
    "set: cost NaN": (put(cost_usd=math.nan), "cost_usd: must be 0 to 1,000,000"),
    "set: cost infinite": (put(cost_usd=math.inf), "cost_usd: must be 0 to 1,000,000"),
    "set: compute time negative": (
        put(compute_time=Duration(nanos=-1)),
        "compute_time: must be 0 s to 604800 s, or unset",
    ),
    "set: compute time too long": (
        put(compute_time=Duration(seconds=604801)),
        "compute_time: must be 0 s to 604800 s, or unset",
    ),
    "set: ttl too short": (
        put(ttl=Duration(nanos=999_999_999)),
        "ttl: must be 1 s to 604800 s, or unset",
    ),
    "set: ttl too long": (
        put(ttl=Duration(seconds=604801)),
        "ttl: must be 1 s to 604800 s, or unset",
    ),
    "set: ttl negative": (
        put(ttl=Duration(seconds=-5)),
        "ttl: must be 1 s to 604800 s, or unset",
    ),
    "set: masterplan too long": (put(masterplan="x" * 257), "masterplan: at most 256 bytes"),
    "set: masterplan with a tab": (put(masterplan="a\tb"), f"masterplan: {CONTROL}"),
    "set: 65 tags": (put(tags=[str(number) for number in range(65)]), "tags: at most 64"),
    "set: empty tag": (put(tags=["a", ""]), "tags: is required"),
    "set: tag too long": (put(tags=["x" * 257]), "tags: at most 256 bytes"),
    "set: tag with a line feed": (put(tags=["a\nb"]), f"tags: {CONTROL}"),
    "set: lease is garbage": (put(lease=b"garbage"), NOT_A_LEASE),
    "set: lease is long garbage": (put(lease=b"\x01" + b"\xff" * 100), NOT_A_LEASE),
    "hold: no lease": (hold(), NOT_A_LEASE),
    "hold: lease is garbage": (hold(lease=b"\x01" * 70), NOT_A_LEASE),
    "hold: lease of no time at all": (
        hold(lease=b"\x01" + bytes(12) + bytes(48) + b"default"),
        NOT_A_LEASE,
    ),
    "invalidate: nothing": (
        invalidate(),
        "target: is required: key, masterplan, tag, model, document, collection or everything",
    ),
    "invalidate: namespace": (invalidate(namespace="*", everything=True), f"namespace: {NAMES}"),
    "invalidate: key": (invalidate(key=b"k"), "key: must be 32 bytes"),
    "invalidate: masterplan": (invalidate(masterplan=""), "masterplan: is required"),
    "invalidate: tag": (invalidate(tag=""), "tag: is required"),
    "invalidate: tag too long": (invalidate(tag="x" * 257), "tag: at most 256 bytes"),
    "invalidate: model": (invalidate(model="a\x7f"), f"model: {CONTROL}"),
    "invalidate: not everything": (invalidate(everything=False), "everything: must be true"),
    "stats: namespace": (pb.StatsRequest(namespace="a/b"), f"namespace: {NAMES}"),
}

CASES: dict[str, tuple[Message, str]] = {
    **{f"get: {name}": (get(identity=each), text) for name, (each, text) in IDENTITIES.items()},
    **{f"set: {name}": (put(identity=each), text) for name, (each, text) in IDENTITIES.items()},
    **OTHERS,
}
