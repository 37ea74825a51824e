"""Every way to ask an asynchronous client, each as a function to something that can be compared."""

from __future__ import annotations

from typing import Any

from anthropic.lib.bedrock._stream_decoder import AWSEventStreamDecoder
from pydantic import BaseModel


class City(BaseModel):
    """What the scene ``json`` is about."""

    city: str
    people: int


def shown(value: Any) -> Any:
    """Write a message or event with the names of its types."""
    request_id = getattr(value, "_request_id", None)
    return (type(value).__name__, request_id, value.to_dict(warnings=False))


def decoded(kind: str, body: bytes) -> Any:
    """Take the bytes of an AWS stream apart (its messages are padded at random), by botocore."""
    if kind != "application/vnd.amazon.eventstream":
        return body
    return [(event.event, event.data) for event in AWSEventStreamDecoder().iter_bytes(iter([body]))]


async def via_create(client: Any, arguments: dict[str, Any]) -> Any:
    return shown(await client.messages.create(**arguments))


async def via_create_stream(client: Any, arguments: dict[str, Any]) -> Any:
    stream = await client.messages.create(**arguments, stream=True)
    return [shown(event) async for event in stream]


async def via_stream(client: Any, arguments: dict[str, Any]) -> Any:
    async with client.messages.stream(**arguments) as stream:
        events = [shown(event) async for event in stream]
        return events, shown(await stream.get_final_message()), stream.request_id


async def via_text_stream(client: Any, arguments: dict[str, Any]) -> Any:
    async with client.messages.stream(**arguments) as stream:
        return [text async for text in stream.text_stream]


async def via_raw(client: Any, arguments: dict[str, Any]) -> Any:
    response = await client.messages.with_raw_response.create(**arguments)
    return type(response).__name__, response.http_response.json(), shown(await response.parse())


async def via_raw_stream(client: Any, arguments: dict[str, Any]) -> Any:
    response = await client.messages.with_raw_response.create(**arguments, stream=True)
    return type(response).__name__, [shown(event) async for event in await response.parse()]


async def via_streaming_response(client: Any, arguments: dict[str, Any]) -> Any:
    async with client.messages.with_streaming_response.create(**arguments) as response:
        closed = response.is_closed
        return closed, b"".join([part async for part in response.iter_bytes()])


async def via_streamed_bytes(client: Any, arguments: dict[str, Any]) -> Any:
    asked = client.messages.with_streaming_response.create(**arguments, stream=True)
    async with asked as response:
        kind = response.headers["content-type"].partition(";")[0]
        closed = response.is_closed
        return kind, closed, decoded(kind, b"".join([part async for part in response.iter_bytes()]))


async def via_beta(client: Any, arguments: dict[str, Any]) -> Any:
    return shown(await client.beta.messages.create(**arguments, betas=["b-2", "a-1"]))


async def via_beta_stream(client: Any, arguments: dict[str, Any]) -> Any:
    stream = await client.beta.messages.create(**arguments, stream=True)
    return [shown(event) async for event in stream]


async def parsed(client: Any, arguments: dict[str, Any]) -> Any:
    message = await client.messages.parse(**arguments, output_format=City)
    return message.parsed_output, shown(message)


async def header(client: Any, arguments: dict[str, Any]) -> str:
    """What the cache says that it did."""
    response = await client.messages.with_raw_response.create(**arguments)
    return str(response.headers.get("x-mge-cache", ""))
