"""The figures add up, and nobody sees another namespace's."""

from __future__ import annotations

import pytest
from hypothesis import given

from mge_cache_server.counts import Counts
from mge_cache_server.model import LAYERS, LLM_LAYER, SIMILAR_LAYER
from mge_cache_server.statistics import ERROR_OPERATIONS, LayerStatistics
from tests.unit.figures import (
    CountsByNamespace,
    Parts,
    counts_by_namespace,
    counts_of,
    reporter_of,
)

TOTALS = (
    "total_hits",
    "total_misses",
    "total_writes",
    "total_invalidations",
    "total_errors",
    "unpriced_writes",
)
AMOUNTS = ("spent_usd", "saved_usd", "saved_s", "computed_s")


@given(counts_by_namespace())
def test_namespaces_add_up_to_the_total(given_: CountsByNamespace) -> None:
    reporter = reporter_of(counts_of(given_))
    parts = [reporter.report(namespace) for namespace in given_]
    for i, total in enumerate(reporter.report().layers):
        shares = [part.layers[i] for part in parts]
        for name in TOTALS:
            assert getattr(total, name) == sum(getattr(share, name) for share in shares)
        for name in AMOUNTS:
            assert getattr(total, name) == pytest.approx(sum(getattr(x, name) for x in shares))
        for operation, count in total.errors_by_operation.items():
            assert count == sum(x.errors_by_operation.get(operation, 0) for x in shares)


@given(counts_by_namespace())
def test_a_namespace_is_reported_as_it_was_counted(given_: CountsByNamespace) -> None:
    reporter = reporter_of(counts_of(given_))
    for namespace, counted in given_.items():
        for layer in reporter.report(namespace).layers:
            counts = counted[layer.cache_layer]
            assert layer == LayerStatistics(
                cache_layer=layer.cache_layer,
                hit_rate=counts.hit_rate,
                total_hits=counts.hits,
                total_misses=counts.misses,
                total_writes=counts.writes,
                total_invalidations=counts.invalidations,
                total_errors=sum(counts.errors.values()),
                errors_by_operation=dict.fromkeys(ERROR_OPERATIONS, 0) | counts.errors,
                spent_usd=counts.spent_usd,
                saved_usd=counts.saved_usd,
                cost_reduction=counts.cost_reduction,
                saved_s=counts.saved_s,
                unpriced_writes=counts.unpriced_writes,
                computed_s=counts.computed_s,
            )


@given(counts_by_namespace())
def test_rates_are_shares_of_what_they_say(given_: CountsByNamespace) -> None:
    report = reporter_of(counts_of(given_)).report()
    assert 0 <= report.combined_hit_rate <= 1
    hits = sum(layer.total_hits for layer in report.layers)
    once = [layer for layer in report.layers if layer.cache_layer != SIMILAR_LAYER]
    lookups = hits + sum(layer.total_misses for layer in once)
    assert report.combined_hit_rate * lookups == pytest.approx(hits)
    for layer in report.layers:
        money = layer.saved_usd + layer.spent_usd
        assert 0 <= layer.cost_reduction <= 1
        assert layer.cost_reduction * money == pytest.approx(layer.saved_usd)


def test_before_the_first_call_all_is_there_and_zero() -> None:
    report = reporter_of(Counts()).report()
    assert [layer.cache_layer for layer in report.layers] == list(LAYERS)
    assert report.combined_hit_rate == 0
    for layer in report.layers:
        assert layer.errors_by_operation == dict.fromkeys(ERROR_OPERATIONS, 0)
        assert (layer.hit_rate, layer.cost_reduction, layer.total_errors) == (0, 0, 0)


def test_one_namespace_does_not_show_the_models_of_others() -> None:
    counts = Counts()
    counts.of("mine", LLM_LAYER).hits += 1
    counts.unpriced("somebodys-secret-model")
    reporter = reporter_of(counts)
    assert reporter.report().unpriced_models == ("somebodys-secret-model",)
    assert reporter.report("mine").unpriced_models == ()


def test_to_look_at_a_namespace_does_not_make_one() -> None:
    counts = Counts()
    reporter = reporter_of(counts)
    assert reporter.report("never-used").layers[0].total_hits == 0
    assert counts._by_namespace == {}


def test_the_state_is_that_of_the_moment() -> None:
    now = 100.0
    parts = Parts()
    reporter = reporter_of(Counts(), parts, clock=lambda: now)
    assert reporter.report().uptime_s == 0
    now, parts.available, parts.live, parts.entries = 142.5, False, False, 9
    report = reporter.report("any")
    assert report.uptime_s == 42.5
    assert (report.store.kind, report.store.available, report.store.feed_live) == (
        "redis",
        False,
        False,
    )
    assert (report.l1.entries, report.l1.size_bytes) == (9, 4096)
    assert (report.l1.max_bytes, report.l1.evictions) == (65536, 7)
    assert report.version == "1.2.3"
