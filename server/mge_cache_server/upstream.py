"""Anthropic: streams the answer to one call. The only importer of its SDK, at the first call.

The SDK costs 55 MB, and 3 s in a thread. It repeats a call that failed before the answer began,
and waits as long as Anthropic says; once the answer has begun, nothing is repeated. Belongs to the
event loop's thread.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from mge_cache._breaker import Breaker
from mge_cache_server.errors import (
    NoKeyError,
    RateLimitedError,
    UpstreamRefusedError,
    UpstreamUnavailableError,
)
from mge_cache_server.limiter import Limiter
from mge_cache_server.upstream_ahead import Ahead, until_sent
from mge_cache_server.upstream_events import CutError, Ended, read_answer
from mge_cache_server.upstream_key import Key, is_usable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

    from anthropic import AsyncAnthropic, AsyncStream

    from mge_cache_server.batch_counts import BatchCounts
    from mge_cache_server.errors import AskError
    from mge_cache_server.upstream_events import UpstreamEvent

_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_RETRIES: Final = 2
_CONNECT_S: Final = 10.0
_BREAKER_RETRY_S: Final = 5.0
_NO_KEY: Final = "no key to Anthropic: set --anthropic-api-key-file or ANTHROPIC_API_KEY"
_ODD_KEY: Final = "the key to Anthropic is not one line of printable ASCII"


@dataclass(frozen=True, slots=True)
class UpstreamPolicy:
    """What an operator decides. ``key_file`` is read again whenever it changes; it wins over
    ``key``. ``silence_s``: how long Anthropic may say nothing. ``base_url`` "": Anthropic's own.
    """  # noqa: D205

    key_file: str
    key: str
    base_url: str
    silence_s: float
    calls_max: int


class Upstream:
    """Calls Anthropic's Messages API, within the limit that it sets."""

    def __init__(
        self,
        policy: UpstreamPolicy,
        counts: BatchCounts,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limiter = Limiter(policy.calls_max)
        self._policy = policy
        self._counts = counts
        self._key = Key(policy.key_file, policy.key)
        self._breaker = Breaker(retry_s=_BREAKER_RETRY_S, clock=now)
        self._loading = asyncio.Lock()
        self._sdk: AsyncAnthropic | None = None
        self._stream_class: type[AsyncStream[object]]
        self._messages_url: str
        self.breaker_open = False
        """Whether Anthropic is left alone because it failed."""

    @property
    def has_key(self) -> bool:
        """Whether there is a key, good or not."""
        return bool(self._key.read())

    async def stream(
        self, body: Mapping[str, Any], messages: Sequence[Any], ahead: Ahead | None = None
    ) -> AsyncGenerator[UpstreamEvent, None]:
        """Ask, and yield the answer as it arrives; raises AskError.

        ``body`` has the members of the call but "messages" and "stream". Close the generator to
        cancel the call. Its permit is given back before the end is yielded. ``ahead`` is used if
        it is this call.
        """
        end: Ended | None = None
        async with self.client() as sdk:
            key = sdk.api_key
            started_s = time.perf_counter()
            if ahead is not None and ahead.asks(key, body, messages):
                events = await ahead.send()
            else:
                events = await self._post(sdk, body, messages)
            has_text = False
            async with events:
                async for event in read_answer(aiter(events), started_s):
                    if isinstance(event, Ended):
                        end = event
                        self._counts.answered_after(event.seconds)
                        continue
                    if isinstance(event, str) and not has_text:
                        has_text = True
                        self._counts.first_delta_after(time.perf_counter() - started_s)
                    yield event
        if end is not None:
            # With the permit given back: whoever gets it may need one, to ask for parts again.
            yield end

    def make_ahead(self, body: Mapping[str, Any], messages: Sequence[Any]) -> Ahead | None:
        """Make a call ready that may have to be sent soon; None where it would be of no use."""
        key, sdk = self._key.read(), self._sdk
        if sdk is None or not is_usable(key) or not self.limiter.is_free or self.breaker_open:
            return None
        sdk.api_key = key
        return Ahead(key, body, messages, self._post(sdk, body, messages))

    async def _post(
        self, sdk: AsyncAnthropic, body: Mapping[str, Any], messages: Sequence[Any]
    ) -> AsyncStream[object]:
        # Not by `messages.create`: it knows every parameter by its type, and makes an object of
        # each event. That takes longer than all that the sidecar does with them.
        content = _JSON.encode({**body, "messages": messages, "stream": True})
        return await sdk.post(
            self._messages_url,
            content=content.encode(),
            cast_to=object,
            stream=True,
            stream_cls=self._stream_class,
        )

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncAnthropic]:
        """Give the SDK's client for one call: with a permit, a key, and errors turned into ours."""
        key = self._key.read()
        if not key:
            raise NoKeyError(_NO_KEY)
        if not is_usable(key):
            raise NoKeyError(_ODD_KEY)  # else it would look like a connection that fails
        sdk = self._sdk or await self._load()
        async with self.limiter.permit():
            if not self._breaker.allows():
                raise UpstreamUnavailableError(
                    "Anthropic is left alone for a moment because it failed",
                    retry_after_s=_BREAKER_RETRY_S,
                )
            # Read by the SDK when it sends.
            sdk.api_key = key
            try:
                yield sdk
            except (asyncio.CancelledError, GeneratorExit):
                self._counts.upstream_calls["cancelled"] += 1
                raise
            except Exception as exc:
                failure = self._failure(exc)
                if failure is None:
                    raise
                raise failure from None  # the SDK's error carries the request
            self._counts.upstream_calls["ok"] += 1
            self._succeeded()
            self.limiter.succeeded()

    async def close(self) -> None:
        """Close the connections."""
        if self._sdk is not None:
            await self._sdk.close()

    async def _load(self) -> AsyncAnthropic:
        async with self._loading:
            if self._sdk is None:
                await asyncio.to_thread(_import_sdk)
                self._sdk = self._make()
            return self._sdk

    def _make(self) -> AsyncAnthropic:
        import httpx2  # noqa: PLC0415
        from anthropic import (  # noqa: PLC0415
            AsyncAnthropic,
            AsyncStream,
            DefaultAioHttpClient,
        )

        silence_s = self._policy.silence_s
        base_url = self._policy.base_url or "https://api.anthropic.com"
        self._stream_class = AsyncStream[object]
        # Whole, as the SDK parses a path three times over.
        self._messages_url = f"{base_url.rstrip('/')}/v1/messages"

        async def watch(response: httpx2.Response) -> None:
            # Inside the SDK's retries: it sees refusals that a repetition made good.
            retry_after_s = _retry_after_s(response.headers)
            if response.status_code in {429, 529}:
                self.limiter.throttled(retry_after_s)
            if retry_after_s is not None and retry_after_s > silence_s:
                # The SDK would wait for as long as it says, with the call's permit.
                response.headers["x-should-retry"] = "false"

        return AsyncAnthropic(
            api_key="-",  # each call brings the present one
            base_url=base_url,
            timeout=httpx2.Timeout(silence_s, connect=min(_CONNECT_S, silence_s)),
            max_retries=_RETRIES,
            # Of the transports that come with the SDK, the quicker one, by 0.4 ms a call.
            http_client=DefaultAioHttpClient(
                event_hooks={"request": [until_sent], "response": [watch]}
            ),
        )

    def _succeeded(self) -> None:
        self._breaker.succeeded()
        self.breaker_open = False

    def _failure(self, exc: Exception) -> AskError | None:
        """Count what the SDK raised and say it in our own terms; None: it is not the SDK's."""
        import anthropic  # noqa: PLC0415
        import httpx2  # noqa: PLC0415

        outcomes = self._counts.upstream_calls
        if isinstance(exc, anthropic.APIStatusError):
            return self._refusal(exc)
        if isinstance(exc, anthropic.APITimeoutError | httpx2.TimeoutException):
            outcomes["timed_out"] += 1
            return self._unavailable(f"Anthropic said nothing for {self._policy.silence_s:g} s")
        # Of an event that was cut, or that something between us and Anthropic wrote.
        not_json = json.JSONDecodeError | UnicodeDecodeError
        if isinstance(exc, anthropic.APIError | httpx2.HTTPError | CutError | not_json):
            outcomes["failed"] += 1
            return self._unavailable("the connection to Anthropic failed")
        return None

    def _refusal(self, exc: Any) -> AskError:
        # Its message may quote the request: the type and the id say enough to look it up.
        status = exc.status_code
        said = f"{exc.type or 'error'} (HTTP {status}, request id {exc.request_id or 'unknown'})"
        retry_after_s = _retry_after_s(exc.response.headers)
        outcomes = self._counts.upstream_calls
        overloaded = status == 529 or exc.type == "overloaded_error"  # noqa: PLR2004
        limited = status == 429 or exc.type == "rate_limit_error"  # noqa: PLR2004
        if overloaded or limited or 400 <= status < 500:  # noqa: PLR2004
            # It answers, and at once: the breaker spares callers what does not. Too many calls are
            # the limiter's business, which each of these answers has made slower.
            self._succeeded()
        if limited:
            outcomes["rate_limited"] += 1
            problem = f"Anthropic's rate limit is reached: {said}"
            return RateLimitedError(problem, retry_after_s=retry_after_s or 1.0)
        if overloaded:
            outcomes["overloaded"] += 1
            problem = f"Anthropic is overloaded: {said}"
            return UpstreamUnavailableError(problem, retry_after_s=retry_after_s or 1.0)
        outcomes["failed"] += 1
        if status in {401, 403}:
            return NoKeyError(f"Anthropic refuses the key: {said}")
        if status >= 500 or status == 200:  # noqa: PLR2004 - 200: an error amid the stream
            return self._unavailable(f"Anthropic failed: {said}", retry_after_s)
        return UpstreamRefusedError(f"Anthropic refuses the request: {said}")

    def _unavailable(
        self, problem: str, retry_after_s: float | None = None
    ) -> UpstreamUnavailableError:
        # `slow`: one failure alone is no reason to leave Anthropic alone, three in a row are.
        self.breaker_open = self._breaker.failed(slow=True) or self.breaker_open
        return UpstreamUnavailableError(problem, retry_after_s=retry_after_s)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read how long Anthropic wants us to wait, as its SDK does."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())


def _import_sdk() -> None:
    import anthropic  # noqa: F401, PLC0415
