"""The settings: read once, every mistake reported together, secrets masked.

Users write a setting's name without its unit: the field ``ttl_s`` is the flag ``--ttl 24h``, the
variable ``MGE_CACHE_TTL=24h`` and the line ``ttl = "24h"`` of the TOML file. Flags win over the
environment, and the environment over the file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mge_cache_server import config_options as kinds
from mge_cache_server.config_checks import contradictions
from mge_cache_server.config_options import Spec, merge, options_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mge_cache_server.config_options import Option

CONFIG_VARIABLE = "MGE_CACHE_CONFIG"
_MIB = 1 << 20
_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S


class ConfigError(Exception):
    """The configuration is wrong. ``problems`` has a line for each mistake, without secrets."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def default_data_dir(environ: Mapping[str, str] | None = None) -> str:
    """Say where the embedded Valkey keeps its data unless told otherwise (XDG)."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_DATA_HOME") or os.path.join(  # noqa: PTH118 (pathlib: not to serve)
        environ.get("HOME") or os.path.expanduser("~"),  # noqa: PTH111
        ".local",
        "share",
    )
    return os.path.join(base, "mge-cache")  # noqa: PTH118


def _setting(default: object, kind: kinds.Kind, help_: str, **spec: Any) -> Any:
    # Any: like dataclasses.field, it stands for a value of the field's own type.
    metadata = {"spec": Spec(kind, help_, **spec)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Settings:
    """All settings of a sidecar. Durations in seconds, sizes in bytes."""

    unix_socket: str = _setting("", kinds.PATH, "Path of the gRPC unix socket; empty: none.")
    unix_mode: int = _setting(0o660, kinds.MODE, "File mode of the unix socket.")
    listen: str = _setting("127.0.0.1:50151", kinds.ADDRESS, "gRPC over TCP; empty: none.")
    http_listen: str = _setting(
        "127.0.0.1:9151", kinds.ADDRESS, "HTTP: metrics, statistics, health; empty: none."
    )
    redis_url: str = _setting(
        "",
        kinds.TEXT,
        "redis://, rediss:// or unix:// URL, redis+sentinel://h1:p,h2:p/SERVICE[/db], "
        "redis+cluster://h1:p,h2:p (rediss+... for TLS), memory://; empty: an embedded Valkey.",
        default_text="embedded Valkey",
    )
    redis_username: str = _setting("", kinds.TEXT, "ACL user; wins over the URL's.")
    redis_password: str = _setting("", kinds.TEXT, "Password; wins over the URL's.", secret=True)
    redis_password_file: str = _setting(
        "", kinds.PATH, "File with the password, read at every connection: rotate at will."
    )
    redis_tls_ca_file: str = _setting(
        "", kinds.PATH, "CA certificates that Redis must match (PEM)."
    )
    redis_tls_cert_file: str = _setting("", kinds.PATH, "Client certificate for Redis (PEM).")
    redis_tls_key_file: str = _setting("", kinds.PATH, "Key of the client certificate (PEM).")
    sentinel_password_file: str = _setting("", kinds.PATH, "File with the Sentinels' password.")
    data_dir: str = _setting(
        default_data_dir,
        kinds.PATH,
        "Folder of the embedded Valkey's data.",
        default_text="$XDG_DATA_HOME/mge-cache",
    )
    key_prefix: str = _setting("mge", kinds.KEY_PREFIX, "Prefix of every key in Redis.")
    store_timeout_s: float = _setting(
        0.05, kinds.DURATION, "Deadline of an operation of the store.", low=0.001, high=60.0
    )
    breaker_failures: int = _setting(
        3, kinds.COUNT, "Failures in a row after which the store is left alone.", low=1, high=1000
    )
    breaker_retry_s: float = _setting(
        0.25, kinds.DURATION, "How often a store that failed is tried again.", low=0.01, high=60.0
    )
    feed_timeout_s: float = _setting(
        1.0,
        kinds.DURATION,
        "Silence after which the feed of invalidations counts as lost.",
        low=0.05,
        high=600.0,
    )
    l1_max_bytes: int = _setting(
        64 * _MIB, kinds.SIZE, "Bound on the sidecar's own memory of answers.", high=1 << 40
    )
    ttl_s: float = _setting(_DAY_S, kinds.DURATION, "Time to live of answers.", low=1.0)
    namespace_ttl_s: Mapping[str, float] = _setting(
        dict, kinds.NAMESPACE_TTLS, 'Times to live by namespace: "plans=1h,search=10m".'
    )
    ttl_max_s: float = _setting(
        7 * _DAY_S, kinds.DURATION, "Longest time to live.", low=1.0, high=366 * _DAY_S
    )
    ttl_jitter: float = _setting(
        0.05, kinds.JITTER, "Share by which times to live are varied, 0 to below 0.5."
    )
    lease_ttl_s: float = _setting(
        60.0, kinds.DURATION, "How long a miss's lease lasts.", low=0.01, high=600.0
    )
    wait_max_s: float = _setting(
        600.0, kinds.DURATION, "Longest wait for another caller's answer.", high=_HOUR_S
    )
    answer_max_bytes: int = _setting(
        8 * _MIB, kinds.SIZE, "Largest answer.", low=1, high=512 * _MIB
    )
    prompt_max_bytes: int = _setting(
        4 * _MIB, kinds.SIZE, "Largest prompt, with its parameters.", low=1, high=512 * _MIB
    )
    tags_max: int = _setting(64, kinds.COUNT, "Most tags of an answer.", high=1024)
    namespaces_max: int = _setting(
        1000, kinds.COUNT, "Most namespaces that a sidecar serves.", low=1, high=1_000_000
    )
    drain_s: float = _setting(
        10.0, kinds.DURATION, "Grace for calls in flight at SIGTERM.", high=_HOUR_S
    )
    shutdown_delay_s: float = _setting(
        0.0,
        kinds.DURATION,
        "How long SIGTERM leaves everything served, before the drain: for a plain container.",
        high=_HOUR_S,
    )
    prices_file: str = _setting("", kinds.PATH, "Prices of models that win (TOML or JSON).")
    llm_cache_enabled: bool = _setting(
        True,  # noqa: FBT003
        kinds.BOOL,
        "Off: every look-up a miss, nothing stored.",
        env="MGE_V2_LLM_CACHE_ENABLED",
    )
    rag_cache_enabled: bool = _setting(
        True,  # noqa: FBT003
        kinds.BOOL,
        "Off: every retrieval's look-up a miss, nothing stored.",
        env="MGE_V2_RAG_CACHE_ENABLED",
    )
    rag_ttl_s: float = _setting(
        _HOUR_S, kinds.DURATION, "Time to live of retrievals' results.", low=1.0
    )
    rag_threshold: float = _setting(
        0.95, kinds.COSINE, "Least cosine similarity of a similar query, 0 to 1."
    )
    rag_rerank_threshold: float | None = _setting(
        None,
        kinds.COSINE_OR_NONE,
        "The same where the documents are ranked anew for the query; empty: as --rag-threshold.",
        default_text="",
    )
    rag_collection_thresholds: Mapping[str, float] = _setting(
        dict, kinds.COSINES, 'Thresholds by collection, in place of both: "faq=0.9,laws=0.98".'
    )
    rag_index: str = _setting(
        "local",
        kinds.choice("local", "vector-sets"),
        "Where similar queries are looked for: in the sidecar's memory, or in Redis 8.",
    )
    rag_index_max_rows: int = _setting(
        1_000_000, kinds.COUNT, "Bound on the queries in memory for similar hits.", low=1
    )
    rag_index_max_bytes: int = _setting(
        256 * _MIB, kinds.SIZE, "Bound on what they take.", high=1 << 40
    )
    rag_compact: bool = _setting(
        False,  # noqa: FBT003
        kinds.BOOL,
        "Keep them in float16: 60 % of the memory, similarities verified in float32.",
    )
    rag_query_cost_usd: float = _setting(
        0.0, kinds.DOLLARS, "What a retrieval costs unless the caller says, in US dollars."
    )
    rag_store_texts: bool = _setting(
        False,  # noqa: FBT003
        kinds.BOOL,
        "Keep the text of queries, in Redis too, and show it with similar hits.",
    )
    anthropic_api_key: str = _setting(
        "", kinds.TEXT, "Key to Anthropic.", secret=True, env="ANTHROPIC_API_KEY"
    )
    anthropic_api_key_file: str = _setting(
        "", kinds.PATH, "File with the key to Anthropic; wins; read again when it changes."
    )
    anthropic_base_url: str = _setting(
        "",
        kinds.TEXT,
        "Where Anthropic's API is.",
        env="ANTHROPIC_BASE_URL",
        default_text="https://api.anthropic.com",
    )
    batch_strategy: str = _setting(
        "fan_out",
        kinds.choice("fan_out", "merge", "deferred"),
        "How Anthropic is asked, unless a request says.",
    )
    batch_window_s: float = _setting(
        0.5, kinds.DURATION, "How long a batch waits for more requests.", high=60.0
    )
    batch_max: int = _setting(5, kinds.COUNT, "Most requests of a batch.", low=1, high=100)
    batch_eager: bool = _setting(
        False,  # noqa: FBT003
        kinds.BOOL,
        "A request does not wait for others if none like it is under way.",
    )
    batch_queue_max: int = _setting(
        1000, kinds.COUNT, "Most requests that wait to be sent.", low=1, high=1_000_000
    )
    deferred_window_s: float = _setting(
        60.0, kinds.DURATION, "How long a deferred batch waits for more.", high=_HOUR_S
    )
    deferred_max: int = _setting(
        1000, kinds.COUNT, "Most requests of a deferred batch.", low=1, high=10_000
    )
    deferred_poll_s: float = _setting(
        30.0, kinds.DURATION, "How often a deferred batch is asked for.", low=0.05, high=_HOUR_S
    )
    upstream_calls_max: int = _setting(
        32, kinds.COUNT, "Most calls on Anthropic at once.", low=1, high=1000
    )
    upstream_timeout_s: float = _setting(
        60.0,
        kinds.DURATION,
        "How long Anthropic may say nothing. A call is repeated twice before its answer begins.",
        low=0.1,
        high=600.0,
    )
    reflection: bool = _setting(False, kinds.BOOL, "Serve gRPC reflection.")  # noqa: FBT003
    log_level: str = _setting(
        "info", kinds.choice("debug", "info", "warning", "error"), "Log level."
    )
    log_format: str = _setting(
        "auto", kinds.choice("auto", "console", "json"), "auto: console on a terminal, else JSON."
    )

    def __repr__(self) -> str:
        """Show every setting with its secrets masked."""
        fields = (f"{each.field}={each.show(getattr(self, each.field))}" for each in options())
        return f"Settings({', '.join(fields)})"


def options() -> tuple[Option, ...]:
    """List all settings as users see them."""
    return options_of(Settings)


def load_settings(
    flags: Mapping[str, str | None], environ: Mapping[str, str], file: Path | None = None
) -> Settings:
    """Read the settings; flags win over the environment, the environment over the file.

    ``flags`` has values by the settings' names ("ttl"); None: not given. Without ``file``, the one
    that ``MGE_CACHE_CONFIG`` names is read. Raises ``ConfigError`` with every mistake.
    """
    file_name = str(file) if file else environ.get(CONFIG_VARIABLE, "")
    problems: tuple[str, ...] = ()
    content: Mapping[str, object] = {}
    if file_name:
        content, problems = _read_file(file_name)
    merged = merge(options(), flags, environ, content, file_name)
    values: dict[str, Any] = {"data_dir": default_data_dir(environ), **merged.values}
    settings = Settings(**values)
    problems += merged.problems
    problems += contradictions(settings, {option.field: option for option in options()}, merged)
    if problems:
        raise ConfigError(problems)
    return settings


def _read_file(name: str) -> tuple[Mapping[str, object], tuple[str, ...]]:
    import tomllib  # noqa: PLC0415 (not needed without a file)

    try:
        with open(name, "rb") as file:  # noqa: PTH123 (pathlib is not needed to serve)
            return tomllib.load(file), ()
    except OSError as error:
        return {}, (f"--config {name}: cannot be read: {error.strerror}",)
    except UnicodeDecodeError:
        return {}, (f"--config {name}: not UTF-8",)
    except tomllib.TOMLDecodeError as error:
        return {}, (f"--config {name}: not TOML: {error}",)
