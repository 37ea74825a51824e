"""What models cost: the bundled price list of ``genai-prices``, and an operator's own prices.

Prices of a model that neither knows are unknown; they are never guessed. The list is data in a
wheel: nothing here uses the network.
"""

from __future__ import annotations

import asyncio
import json
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelPrice as BundledPrice

    from mge_cache_server.model import Usage

_REMEMBERED_MAX = 1024
_REMEMBER_S = 60.0
"""Some models have prices by the day or by the hour; this is how late we notice."""

_BATCH_SHARE = 0.5
"""Of the list price, for what goes by Anthropic's Message Batches."""

_REQUIRED = ("input", "output")
_FIELDS = (*_REQUIRED, "cache_read", "cache_write")
_PRICE_MAX_USD = 1_000_000

Rate = tuple[tuple[int, float], ...]
"""(more input tokens than, dollars per million tokens), highest threshold first; the last is -1.

Passing a threshold changes the price of all tokens, as providers have it.
"""


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a model's tokens cost; None where that is unknown."""

    input: Rate | None
    output: Rate | None
    cache_read: Rate | None
    cache_write: Rate | None
    request_usd: float = 0.0

    def cost_usd(self, usage: Usage) -> float | None:
        """Return what ``usage`` costs, or None if tokens in it have no known price."""
        total_input = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        micro_usd = 0.0
        for tokens, rate in (
            (usage.input_tokens, self.input),
            (usage.output_tokens, self.output),
            (usage.cache_read_tokens, self.cache_read),
            (usage.cache_write_tokens, self.cache_write),
        ):
            if tokens == 0:
                continue
            if rate is None:
                return None
            micro_usd += tokens * next(usd for start, usd in rate if total_input > start)
        return micro_usd / 1e6 + self.request_usd


class PricesFileError(ValueError):
    """A file of prices is wrong; ``problems`` has every mistake in it."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        super().__init__("\n".join(f"{path}: {problem}" for problem in problems))
        self.problems = tuple(problems)


class Prices:
    """Knows what calls cost. For one event loop.

    ``overrides`` come before the bundled list. Their names are models' names, or beginnings of
    names with a ``*`` at the end; an exact name counts more than a beginning, a longer beginning
    more than a shorter one. ``wall_clock`` gives seconds since 1970.
    """

    def __init__(
        self,
        overrides: Mapping[str, ModelPrice] | None = None,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        given = overrides or {}
        self._exact = {name: price for name, price in given.items() if not name.endswith("*")}
        self._beginnings = sorted(
            ((name[:-1], price) for name, price in given.items() if name.endswith("*")),
            key=lambda item: -len(item[0]),
        )
        self._wall_clock = wall_clock
        self._bundled: DataSnapshot | None = None
        self._loading = asyncio.Lock()
        self._remembered: dict[str, tuple[float, ModelPrice | None]] = {}

    async def prepare(self, model: str) -> None:
        """Load the bundled list, if ``model`` needs it, without blocking the event loop."""
        if self._bundled is None and self._override(model) is None:
            await self.load()

    async def load(self) -> None:
        """Load the bundled list in a thread: about 0.2 s and 16 MB, once."""
        async with self._loading:
            if self._bundled is None:
                self._bundled = await asyncio.to_thread(_load_bundled)

    def batch_cost_usd(self, model: str, usage: Usage) -> float | None:
        """Return the price of a request of a Message Batch, or None if it is unknown.

        The list has no prices of batches: it is half of ``cost_usd``, as Anthropic has it for all
        its models, an operator's own prices included.
        """
        cost_usd = self.cost_usd(model, usage)
        return None if cost_usd is None else cost_usd * _BATCH_SHARE

    def cost_usd(self, model: str, usage: Usage) -> float | None:
        """Return the price of a call in US dollars, or None if it is unknown.

        Input tokens are those billed in full: those read from or written to the provider's own
        cache come on top, at their own prices (a write at that for five minutes, the default). No
        tokens cost 0, whatever the model. Blocks for 0.2 s at its first use, unless ``prepare``
        has been awaited.
        """
        if not (
            usage.input_tokens
            or usage.output_tokens
            or usage.cache_read_tokens
            or usage.cache_write_tokens
        ):
            return 0.0
        price = self.of(model)
        return None if price is None else price.cost_usd(usage)

    def of(self, model: str) -> ModelPrice | None:
        """Return what a model's tokens cost now, or None if that is unknown.

        Blocks at its first use as ``cost_usd`` does.
        """
        return self._override(model) or self._listed(model)

    def _override(self, model: str) -> ModelPrice | None:
        price = self._exact.get(model)
        if price is not None:
            return price
        for beginning, price in self._beginnings:
            if model.startswith(beginning):
                return price
        return None

    def _listed(self, model: str) -> ModelPrice | None:
        now_s = self._wall_clock()
        remembered = self._remembered.get(model)
        if remembered is not None and now_s < remembered[0]:
            return remembered[1]
        if self._bundled is None:
            self._bundled = _load_bundled()
        elif len(self._remembered) >= _REMEMBERED_MAX:
            # Both remember every name that a client may make up.
            self._remembered.clear()
            self._bundled = _load_bundled()
        price = _look_up(self._bundled, model, now_s)
        self._remembered[model] = (now_s + _REMEMBER_S, price)
        return price


def _load_bundled() -> DataSnapshot:
    # Imported here, as most of the 16 MB are this list. The snapshot is our own rather than the
    # package's global one, which it can update over the network and never empties.
    from genai_prices.data import providers  # noqa: PLC0415
    from genai_prices.data_snapshot import DataSnapshot  # noqa: PLC0415

    return DataSnapshot(providers=providers, from_auto_update=False)


def _look_up(bundled: DataSnapshot, model: str, now_s: float) -> ModelPrice | None:
    providers: list[str | None] = [None]
    if "/" in model:
        providers.append("litellm")  # "provider/model", as LiteLLM and OpenRouter write it
    if "." in model:
        providers.append("aws")  # "us.anthropic.claude-…", as Bedrock writes it
    for provider in providers:
        try:
            _, found = bundled.find_provider_model(model, None, provider, None)
        except LookupError:
            continue
        return _from_bundled(found.get_prices(datetime.fromtimestamp(now_s, UTC)))
    return None


def _from_bundled(listed: BundledPrice) -> ModelPrice:
    # Where a provider has no price of its own for cached tokens, it bills them as input.
    plain = _rate(listed, "input_mtok")
    per_thousand = _rate(listed, "requests_kcount")
    return ModelPrice(
        input=plain,
        output=_rate(listed, "output_mtok"),
        cache_read=_rate(listed, "cache_read_mtok") or plain,
        cache_write=_rate(listed, "cache_write_mtok") or plain,
        request_usd=per_thousand[-1][1] / 1000 if per_thousand else 0.0,
    )


def _rate(listed: BundledPrice, name: str) -> Rate | None:
    value = getattr(listed, name)
    if value is None:
        return None
    tiers = getattr(value, "tiers", None)
    if tiers is None:
        return ((-1, float(value)),)
    steps = [(tier.start, float(tier.price)) for tier in reversed(tiers)]
    return (*steps, (-1, float(value.base)))


def read_prices_file(path: Path) -> dict[str, ModelPrice]:
    """Read the prices of models from a ``.toml`` or ``.json`` file.

    It maps a model's name (or the beginning of one, with ``*`` at its end) to dollars per million
    tokens: ``input`` and ``output``, and ``cache_read`` and ``cache_write`` where they are known.
    Raises ``PricesFileError`` with all mistakes.
    """
    try:
        content = _parse(path)
    except OSError as exc:
        raise PricesFileError(path, [f"cannot be read: {exc.strerror}"]) from exc
    except ValueError as exc:
        raise PricesFileError(path, [str(exc)]) from exc
    if not isinstance(content, dict):
        raise PricesFileError(path, ["must map models to their prices"])
    problems: list[str] = []
    for name, fields in content.items():
        problems += [f"{_quoted(name)}: {problem}" for problem in _problems(name, fields)]
    if problems:
        raise PricesFileError(path, problems)
    return {name: _from_file(fields) for name, fields in content.items()}


def _parse(path: Path) -> object:
    suffix = path.suffix.lower()
    if suffix not in {".json", ".toml"}:
        raise ValueError("must end in .toml or .json")
    text = path.read_text(encoding="utf-8")
    if suffix == ".toml":
        return tomllib.loads(text)
    try:
        content: object = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as exc:
        raise ValueError("is nested too deeply") from exc
    return content


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"has more than one of: {', '.join(map(_quoted, twice))}")
    return result


def _problems(name: str, fields: object) -> list[str]:
    problems = []
    if not name:
        problems.append("a model's name is empty")
    if "*" in name[:-1]:
        problems.append("* may only stand at the end")
    if not isinstance(fields, dict):
        return [*problems, f"must have the fields {', '.join(_FIELDS)}"]
    problems += [f"{field} is missing" for field in _REQUIRED if field not in fields]
    for field, value in fields.items():
        if field not in _FIELDS:
            problems.append(f"{_quoted(field)} is unknown; known are {', '.join(_FIELDS)}")
        elif not _is_price(value):
            problems.append(f"{field} must be a number of dollars from 0 to {_PRICE_MAX_USD}")
    return problems


def _is_price(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= _PRICE_MAX_USD


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _from_file(fields: Mapping[str, float]) -> ModelPrice:
    def rate(field: str) -> Rate | None:
        return ((-1, float(fields[field])),) if field in fields else None

    return ModelPrice(
        input=rate("input"),
        output=rate("output"),
        cache_read=rate("cache_read"),
        cache_write=rate("cache_write"),
    )
