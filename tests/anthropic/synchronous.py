"""Every way to ask a synchronous client, each as a function to something that can be compared."""

from __future__ import annotations

from typing import Any

from tests.anthropic.asynchronous import City, decoded, shown


def via_create(client: Any, arguments: dict[str, Any]) -> Any:
    return shown(client.messages.create(**arguments))


def via_create_stream(client: Any, arguments: dict[str, Any]) -> Any:
    stream = client.messages.create(**arguments, stream=True)
    return [shown(event) for event in stream]


def via_stream(client: Any, arguments: dict[str, Any]) -> Any:
    with client.messages.stream(**arguments) as stream:
        events = [shown(event) for event in stream]
        return events, shown(stream.get_final_message()), stream.request_id


def via_text_stream(client: Any, arguments: dict[str, Any]) -> Any:
    with client.messages.stream(**arguments) as stream:
        return list(stream.text_stream)


def via_raw(client: Any, arguments: dict[str, Any]) -> Any:
    response = client.messages.with_raw_response.create(**arguments)
    return type(response).__name__, response.http_response.json(), shown(response.parse())


def via_raw_stream(client: Any, arguments: dict[str, Any]) -> Any:
    response = client.messages.with_raw_response.create(**arguments, stream=True)
    return type(response).__name__, [shown(event) for event in response.parse()]


def via_streaming_response(client: Any, arguments: dict[str, Any]) -> Any:
    with client.messages.with_streaming_response.create(**arguments) as response:
        closed = response.is_closed
        return closed, b"".join(response.iter_bytes())


def via_streamed_bytes(client: Any, arguments: dict[str, Any]) -> Any:
    asked = client.messages.with_streaming_response.create(**arguments, stream=True)
    with asked as response:
        kind = response.headers["content-type"].partition(";")[0]
        closed = response.is_closed
        return kind, closed, decoded(kind, b"".join(response.iter_bytes()))


def via_beta(client: Any, arguments: dict[str, Any]) -> Any:
    return shown(client.beta.messages.create(**arguments, betas=["b-2", "a-1"]))


def via_beta_stream(client: Any, arguments: dict[str, Any]) -> Any:
    stream = client.beta.messages.create(**arguments, stream=True)
    return [shown(event) for event in stream]


def parsed(client: Any, arguments: dict[str, Any]) -> Any:
    message = client.messages.parse(**arguments, output_format=City)
    return message.parsed_output, shown(message)


def header(client: Any, arguments: dict[str, Any]) -> str:
    """What the cache says that it did."""
    response = client.messages.with_raw_response.create(**arguments)
    return str(response.headers.get("x-mge-cache", ""))
