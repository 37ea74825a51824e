"""Many requests, some of them at once: for threads."""

from __future__ import annotations

import queue
import time
from functools import partial
from typing import TYPE_CHECKING

from mge_cache._generate_types import Generated
from mge_cache._stream_parts import check_in_flight
from mge_cache.errors import MgeCacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from mge_cache._generation import Generation
    from mge_cache._types import PromptRequest


class Many:
    """Keeps at most ``max_in_flight`` requests under way. Runs once, in one thread."""

    def __init__(
        self, generate: Callable[[PromptRequest], Generation], *, max_in_flight: int
    ) -> None:
        self._generate = generate
        self._max_in_flight = check_in_flight(max_in_flight)
        self._under_way: dict[int, tuple[PromptRequest, Generation]] = {}
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()  # the indexes
        self._read_failure: Exception | None = None

    def run(self, requests: Iterable[PromptRequest]) -> Generator[Generated, None, None]:
        """Yield what becomes of each."""
        unsent = enumerate(self._read(requests))
        try:
            while True:
                yield from self._fill(unsent)
                if not self._under_way:
                    break
                yield self._next_end()
        finally:
            for _, generation in self._under_way.values():
                generation.close()
        if self._read_failure is not None:
            raise self._read_failure

    def _read(self, requests: Iterable[PromptRequest]) -> Iterator[PromptRequest]:
        each = iter(requests)
        while True:
            try:
                request = next(each)
            except StopIteration:
                return
            except Exception as exc:  # noqa: BLE001 (raised after the answers that are under way)
                self._read_failure = exc
                return
            yield request

    def _fill(self, unsent: Iterator[tuple[int, PromptRequest]]) -> Iterator[Generated]:
        """Send requests while there is room; yield those that cannot even be sent."""
        while len(self._under_way) < self._max_in_flight:
            index, request = next(unsent, (-1, None))
            if request is None:
                return
            try:
                generation = self._generate(request)
            except MgeCacheError as exc:
                yield Generated(index=index, request=request, error=exc)
                continue
            self._under_way[index] = (request, generation)
            generation.when_ended(partial(self._ended.put, index))

    def _next_end(self) -> Generated:
        index = self._wait()
        request, generation = self._under_way.pop(index)
        try:
            return Generated(index=index, request=request, completion=generation.result())
        except MgeCacheError as exc:
            return Generated(index=index, request=request, error=exc)

    def _wait(self) -> int:
        """Return the index of one that has ended; after its deadline it has."""
        while True:
            generations = {index: each for index, (_, each) in self._under_way.items()}
            first = min(generations, key=lambda index: generations[index].deadline_s)
            left_s = max(0.0, generations[first].deadline_s - time.monotonic())
            try:
                return self._ended.get(timeout=left_s)
            except queue.Empty:
                generations[first].expire()  # which puts it into the queue
