"""When each alert fires, does not fire just below, and resolves."""

from __future__ import annotations

from tests.observe.rule_cases import AlertCase, metric

_DAY_MIN = 24 * 60


def _rpcs(ok: str, failed: str, code: str = "INTERNAL") -> dict[str, str]:
    name = "grpc_server_handled_total"
    return {
        metric(name, 'grpc_code="OK"'): ok,
        metric(name, f'grpc_code="{code}"'): failed,
    }


def _operations(operations: str, errors: str, breaker: str = "0x200") -> dict[str, str]:
    return {
        metric("mge_cache_store_operation_seconds_count", 'operation="lookup",pod="a"'): operations,
        metric("mge_cache_store_operation_seconds_count", 'operation="probe",pod="a"'): "0+600x200",
        metric("v2_cache_errors_total", 'operation="lookup",pod="a"'): errors,
        metric("mge_cache_breaker_open", 'pod="a"'): breaker,
    }


def _lookups(hits: str, misses: str) -> dict[str, str]:
    return {
        metric("v2_cache_hits_total", 'cache_layer="llm"'): hits,
        metric("v2_cache_misses_total", 'cache_layer="llm"'): misses,
    }


def _feed(live: str, up: str) -> dict[str, str]:
    return {
        metric("mge_cache_feed_live", 'pod="a"'): live,
        metric("mge_cache_store_up", 'pod="a",kind="redis"'): up,
    }


def _queue(queued: str, rejected: str, bound: str = "100x60") -> dict[str, str]:
    return {
        metric("mge_cache_batch_queued", 'pod="a"'): queued,
        metric("mge_cache_batch_queue_max", 'pod="a"'): bound,
        metric("mge_cache_batch_rejected_total", 'pod="a"'): rejected,
    }


def _savings(hits: str, saved: str, layer: str = "llm") -> dict[str, str]:
    labels = f'cache_layer="{layer}"'
    return {
        metric("v2_cache_hits_total", labels): hits,
        metric("v2_cache_cost_savings_usd_total", labels): saved,
    }


_BREAKER = (
    "Sidecars of shop/search that cannot use Redis: 1. Calls succeed, but what is not in a "
    "sidecar's own memory is bought anew, and invalidations fail."
)
_RPC = "of the calls of shop/search fail with a status that is not the caller's fault."
_STORE = (
    "of the operations of shop/search on Redis fail, though not in a row: each is a miss that may "
    "have been a hit."
)
_FEED = (
    "Sidecars of shop/search without a feed: 1. They ask Redis at every look-up instead: nothing "
    "stale is served, but each hit takes a round trip."
)
_QUEUE = (
    "Sidecars of shop/search that refuse requests, or are about to: 1. Requests arrive faster than "
    "the model's service takes them."
)
_FILE = (
    "Sidecars of shop/search that cannot read their redis_password: 1. Connections that exist go "
    "on; new ones will fail."
)
_CERTIFICATE = metric("mge_cache_certificate_expiry_seconds", 'file="redis_tls_cert",pod="a"')
_OTHER_POD = metric("mge_cache_certificate_expiry_seconds", 'file="redis_tls_cert",pod="b"')

ALERTS = (
    AlertCase(
        "MgeCacheBreakerOpen",
        "open for long, then closed",
        {
            metric("mge_cache_breaker_open", 'pod="a"'): "0x10 1x30 0x30",
            metric("mge_cache_breaker_open", 'pod="b"'): "0x80",
        },
        fires={25: _BREAKER, 40: _BREAKER},
        quiet=(12, 17, 55),
    ),
    AlertCase(
        "MgeCacheBreakerOpen",
        "open for less than half of the time, or for a short while",
        {
            metric("mge_cache_breaker_open", 'pod="a"'): "0 0 1 0 0 1 0 0 1 0 0 1 0x10 1x4 0x30",
        },
        quiet=(5, 10, 20, 26, 30),
    ),
    AlertCase(
        "MgeCacheRpcErrors",
        "more than a twentieth fails",
        _rpcs("0+56x90", "0+4x40 160x50"),
        fires={25: f"6.667% {_RPC}", 40: f"6.667% {_RPC}"},
        quiet=(8, 55),
    ),
    AlertCase(
        "MgeCacheRpcErrors",
        "requests that are refused count",
        _rpcs("0+54x90", "0+6x90", "RESOURCE_EXHAUSTED"),
        fires={25: f"10% {_RPC}"},
    ),
    AlertCase(
        "MgeCacheRpcErrors", "less than a twentieth fails", _rpcs("0+58x90", "0+2x90"), quiet=(40,)
    ),
    AlertCase("MgeCacheRpcErrors", "hardly any calls", _rpcs("0+1x90", "0+1x90"), quiet=(40,)),
    AlertCase(
        "MgeCacheRpcErrors",
        "the callers' own mistakes",
        _rpcs("0+30x90", "0+30x90", "INVALID_ARGUMENT"),
        quiet=(40,),
    ),
    AlertCase(
        "MgeCacheStoreErrors",
        "a tenth fails, not in a row",
        _operations("0+60x90", "0+6x40 240x50"),
        fires={30: f"10% {_STORE}", 40: f"10% {_STORE}"},
        quiet=(8, 60),
    ),
    AlertCase("MgeCacheStoreErrors", "few fail", _operations("0+60x90", "0+2x90"), quiet=(40,)),
    AlertCase(
        "MgeCacheStoreErrors",
        "the breaker is open: another alert says so",
        _operations("0+60x90", "0+30x90", "1x90"),
        quiet=(40,),
    ),
    AlertCase(
        "MgeCacheHitRateCollapsed",
        "from 80 % to 20 %, and back",
        _lookups(
            f"0+80x{_DAY_MIN} {80 * _DAY_MIN}+20x120 {80 * _DAY_MIN + 2400}+80x120",
            f"0+20x{_DAY_MIN} {20 * _DAY_MIN}+80x120 {20 * _DAY_MIN + 9600}+20x120",
        ),
        fires={
            _DAY_MIN + 100: (
                "The hit rate of shop/search is 20%, less than half of what it was in the day "
                "before."
            )
        },
        quiet=(60, _DAY_MIN - 1, _DAY_MIN + 20, _DAY_MIN + 200),
    ),
    AlertCase(
        "MgeCacheHitRateCollapsed",
        "from 80 % to 45 %: more than half is left",
        _lookups(
            f"0+80x{_DAY_MIN} {80 * _DAY_MIN}+45x120", f"0+20x{_DAY_MIN} {20 * _DAY_MIN}+55x120"
        ),
        quiet=(_DAY_MIN + 60, _DAY_MIN + 100),
    ),
    AlertCase(
        "MgeCacheHitRateCollapsed",
        "hardly any look-ups are left",
        _lookups(f"0+80x{_DAY_MIN} {80 * _DAY_MIN}x120", f"0+20x{_DAY_MIN} {20 * _DAY_MIN}+4x120"),
        quiet=(_DAY_MIN + 60, _DAY_MIN + 100),
    ),
    AlertCase(
        "MgeCacheHitRateCollapsed",
        "it never was high",
        _lookups(f"0+9x{_DAY_MIN} {9 * _DAY_MIN}+1x120", f"0+91x{_DAY_MIN} {91 * _DAY_MIN}+99x120"),
        quiet=(_DAY_MIN + 60, _DAY_MIN + 100),
    ),
    AlertCase(
        "MgeCacheFeedLost",
        "lost though the store answers, then back",
        _feed("1x10 0x30 1x30", "1x80"),
        fires={25: _FEED, 40: _FEED},
        quiet=(14, 18, 50),
    ),
    AlertCase("MgeCacheFeedLost", "lost with the store", _feed("0x60", "0x60"), quiet=(40,)),
    AlertCase(
        "MgeCacheFeedLost",
        "it comes and goes",
        _feed("0 0 0 1 0 0 0 1 0 0 0 1", "1x20"),
        quiet=(9, 11),
    ),
    AlertCase(
        "MgeCacheBatchQueueFull",
        "it stays at its bound, then empties",
        _queue("10x10 95x30 10x30", "0x90"),
        fires={25: _QUEUE, 40: _QUEUE},
        quiet=(12, 18, 50),
    ),
    AlertCase(
        "MgeCacheBatchQueueFull",
        "requests are refused",
        _queue("10x90", "0x10 0+1x30 30x30"),
        fires={30: _QUEUE},
        quiet=(12, 60),
    ),
    AlertCase("MgeCacheBatchQueueFull", "nearly full", _queue("89x60", "0x60"), quiet=(40,)),
    AlertCase(
        "MgeCacheBatchQueueFull", "batching is off", _queue("0x60", "0x60", "0x60"), quiet=(40,)
    ),
    AlertCase(
        "MgeCacheSavingsStopped",
        "hits without dollars for seven hours, then with",
        _savings("0+1x800", "5x500 5+0.1x300"),
        fires={
            440: (
                "shop/search had 360 hits in six hours that saved 0 dollars: their answers have no "
                "price."
            )
        },
        quiet=(60, 560),
    ),
    AlertCase(
        "MgeCacheSavingsStopped",
        "a little is saved",
        _savings("0+1x800", "0+0.001x800"),
        quiet=(500,),
    ),
    AlertCase(
        "MgeCacheSavingsStopped", "hardly any hits", _savings("0+0.2x800", "0x800"), quiet=(500,)
    ),
    AlertCase(
        "MgeCacheSavingsStopped",
        "retrievals need not cost anything",
        _savings("0+9x800", "0x800", "rag"),
        quiet=(500,),
    ),
    AlertCase(
        "MgeCacheFileUnreadable",
        "it goes and comes back",
        {
            metric("mge_cache_file_readable", 'file="redis_password",pod="a"'): "1x10 0x30 1x30",
            metric("mge_cache_file_readable", 'file="prices",pod="a"'): "1x80",
            metric("mge_cache_file_readable", 'file="redis_password",pod="b"'): "1x80",
        },
        fires={25: _FILE, 40: _FILE},
        quiet=(12, 18, 50),
        labels={"file": "redis_password"},
    ),
    AlertCase(
        "MgeCacheFileUnreadable",
        "gone for a moment, as when it is replaced",
        {metric("mge_cache_file_readable", 'file="prices",pod="a"'): "1x10 0x3 1x30"},
        quiet=(13, 16, 20, 30),
    ),
    AlertCase(
        "MgeCacheCertificateExpires",
        "a day before its end, though the pod is a new one; then it is renewed",
        {
            # The end is 48 hours after the beginning.
            _CERTIFICATE: f"172800x{_DAY_MIN + 10}",
            _OTHER_POD: f"_x{_DAY_MIN} 172800x400 9999999x300",
        },
        fires={
            _DAY_MIN + 60: (
                "The redis_tls_cert of shop/search ends in 23h 0m 0s. From then on new connections "
                "to Redis fail."
            )
        },
        quiet=(_DAY_MIN - 5, _DAY_MIN + 500),
        labels={"file": "redis_tls_cert"},
    ),
    AlertCase(
        "MgeCacheCertificateExpires",
        "one that lives for half a day, and is renewed every six hours",
        {
            _CERTIFICATE: " ".join(f"{21600 * n + 43200}x359" for n in range(8)),
        },
        quiet=(300, 700, _DAY_MIN + 30, _DAY_MIN + 350),
    ),
)
