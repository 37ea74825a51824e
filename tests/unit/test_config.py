"""Settings: where they come from, that every mistake is told, and that no secret is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache_server.cli.settings_table import settings_table
from mge_cache_server.config import ConfigError, Settings, load_settings, options
from mge_cache_server.config_options import is_service_link

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# One right value for each setting, as text, and what it must become.
EXAMPLES: dict[str, tuple[str, object]] = {
    "unix_socket": ("/run/s.sock", "/run/s.sock"),
    "unix_mode": ("600", 0o600),
    "listen": ("127.0.0.1:1", "127.0.0.1:1"),
    "http_listen": ("", ""),
    "redis_url": ("redis://h:1/2", "redis://h:1/2"),
    "redis_username": ("me", "me"),
    "redis_password": ("pw", "pw"),
    "data_dir": ("/data", "/data"),
    "key_prefix": ("app", "app"),
    "store_timeout": ("20ms", 0.02),
    "breaker_failures": ("5", 5),
    "breaker_retry": ("1s", 1.0),
    "feed_timeout": ("2s", 2.0),
    "l1_max": ("1MiB", 1 << 20),
    "ttl": ("1h", 3600.0),
    "namespace_ttl": ("plans=1h,search=10m", {"plans": 3600.0, "search": 600.0}),
    "ttl_max": ("2d", 172800.0),
    "ttl_jitter": ("0", 0.0),
    "lease_ttl": ("5s", 5.0),
    "wait_max": ("1m", 60.0),
    "answer_max": ("1MB", 1_000_000),
    "prompt_max": ("1KiB", 1024),
    "tags_max": ("8", 8),
    "namespaces_max": ("3", 3),
    "drain": ("0", 0.0),
    "shutdown_delay": ("15s", 15.0),
    "llm_cache_enabled": ("off", False),
    "rag_cache_enabled": ("off", False),
    "rag_ttl": ("30m", 1800.0),
    "rag_threshold": ("0.97", 0.97),
    "rag_rerank_threshold": ("0.9", 0.9),
    "rag_collection_thresholds": ("faq=0.9,laws=0.98", {"faq": 0.9, "laws": 0.98}),
    "rag_index_max_rows": ("5000", 5000),
    "rag_index_max": ("32MiB", 32 << 20),
    "rag_index": ("vector-sets", "vector-sets"),
    "rag_compact": ("on", True),
    "rag_query_cost_usd": ("0.002", 0.002),
    "rag_store_texts": ("on", True),
    "reflection": ("true", True),
    "log_level": ("DEBUG", "debug"),
    "log_format": ("json", "json"),
    "anthropic_api_key": ("sk-1", "sk-1"),
    "anthropic_api_key_file": ("/run/key", "/run/key"),
    "anthropic_base_url": ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    "batch_strategy": ("merge", "merge"),
    "batch_window": ("1s", 1.0),
    "batch_max": ("7", 7),
    "batch_eager": ("true", True),
    "batch_queue_max": ("10", 10),
    "deferred_window": ("5m", 300.0),
    "deferred_max": ("50", 50),
    "deferred_poll": ("1m", 60.0),
    "upstream_calls_max": ("4", 4),
    "upstream_timeout": ("30s", 30.0),
}
# These need files that exist, or a Redis of a certain kind.
ELSEWHERE = {
    "redis_password_file",
    "redis_tls_ca_file",
    "redis_tls_cert_file",
    "redis_tls_key_file",
    "sentinel_password_file",
    "prices_file",
}
BESIDE = dict.fromkeys(("redis_username", "redis_password", "rag_index"), "redis://h")


def problems(
    flags: Mapping[str, str | None] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(flags or {}, environ or {}, file)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def field(settings: Settings, name: str) -> Any:
    [option] = [option for option in options() if option.name == name]
    return getattr(settings, option.field)


def test_every_setting_has_an_example() -> None:
    assert set(EXAMPLES) | ELSEWHERE == {option.name for option in options()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_setting_as_flag_and_as_variable(name: str) -> None:
    text, value = EXAMPLES[name]
    [option] = [option for option in options() if option.name == name]
    beside = {"redis_url": BESIDE[name]} if name in BESIDE else {}
    assert field(load_settings({name: text} | beside, {}, None), name) == value
    assert field(load_settings(beside, {option.env: text}, None), name) == value


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_setting_as_text_in_the_file(name: str, tmp_path: Path) -> None:
    text, value = EXAMPLES[name]
    beside = {"redis_url": BESIDE[name]} if name in BESIDE else {}
    file = tmp_path / "settings.toml"
    file.write_text(f'{name} = "{text}"\n')
    assert field(load_settings(beside, {}, file), name) == value


def test_the_file_has_numbers_booleans_and_a_table(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        "ttl = 60\nttl_jitter = 0.1\nreflection = true\nl1_max = 1024\n"
        '[namespace_ttl]\nplans = "1h"\nsearch = 90\n'
    )
    settings = load_settings({}, {"MGE_CACHE_CONFIG": str(file)})
    assert (settings.ttl_s, settings.ttl_jitter, settings.reflection) == (60, 0.1, True)
    assert settings.l1_max_bytes == 1024
    assert settings.namespace_ttl_s == {"plans": 3600, "search": 90}


def test_defaults() -> None:
    settings = load_settings({}, {"HOME": "/home/me"})
    assert settings == dataclasses.replace(Settings(), data_dir="/home/me/.local/share/mge-cache")
    assert settings.ttl_s == 86400
    assert load_settings({}, {"XDG_DATA_HOME": "/xdg"}).data_dir == "/xdg/mge-cache"


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('ttl = "1s"\nttl_max = "1h"\ndrain = "1s"\n')
    environ = {"MGE_CACHE_TTL_MAX": "2h", "MGE_CACHE_DRAIN": "2s"}
    settings = load_settings({"drain": "3s", "ttl": None}, environ, file)
    assert (settings.ttl_s, settings.ttl_max_s, settings.drain_s) == (1, 7200, 3)


def test_the_switch_has_its_own_variable() -> None:
    assert not load_settings({}, {"MGE_V2_LLM_CACHE_ENABLED": "false"}).llm_cache_enabled
    assert (
        "MGE_CACHE_LLM_CACHE_ENABLED: no such setting"
        in problems(environ={"MGE_CACHE_LLM_CACHE_ENABLED": "false"})[0]
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('tll = "1h"\nreflection = 1\nunix_mode = 660\nnamespace_ttl = {"a b" = 1}\n')
    found = problems(
        {"ttl": "soon", "tags_max": "-1"},
        {"MGE_CACHE_LISEN": "x", "MGE_CACHE_STORE_TIMEOUT": "90s", "MGE_CACHE_LISTEN": ""},
        file,
    )
    text = "\n".join(found)
    assert "tll: no such setting in" in text
    assert 'did you mean "ttl"?' in text
    assert 'MGE_CACHE_LISEN: no such setting (did you mean "MGE_CACHE_LISTEN"?)' in text
    assert "--ttl: must be a duration" in text
    assert '--tags-max: must be a whole number, not "-1"' in text
    assert '--store-timeout: must be at most 1m, not "90s" in MGE_CACHE_STORE_TIMEOUT' in text
    assert "--reflection: must be true or false" in text
    assert "--unix-mode: must be a mode in quotes" in text
    assert "--namespace-ttl: must name namespaces" in text
    assert "--unix-socket, --listen: at least one" in text
    assert len(found) == 9


def test_a_mistake_that_is_overridden_is_told_all_the_same() -> None:
    assert len(problems({"ttl": "1h"}, {"MGE_CACHE_TTL": "soon"})) == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"ttl": "8d"}, "--ttl: must be at most --ttl-max (7d by default), not 8d"),
        ({"namespace_ttl": "plans=8d"}, "--namespace-ttl: plans: must be from 1s to --ttl-max"),
        ({"namespace_ttl": "plans=1ms"}, "--namespace-ttl: plans: must be from 1s to --ttl-max"),
        ({"listen": ""}, "--unix-socket, --listen: at least one of them must be set"),
        ({"unix_socket": "/" + "x" * 107}, "--unix-socket: must have at most 107 bytes, not 108"),
        ({"listen": "h:1", "http_listen": "h:1"}, "--http-listen: must differ from --listen"),
        ({"listen": "nowhere"}, '--listen: must be "host:port"'),
        ({"redis_url": "http://h"}, "--redis-url: must begin with one of memory://"),
        ({"redis_url": "h:6379"}, "--redis-url: must begin with one of memory://"),
        ({"redis_url": "redis://"}, "--redis-url: must name hosts"),
        ({"redis_url": "redis://h:port"}, "--redis-url: must name hosts"),
        ({"redis_url": "redis://a,b"}, "--redis-url: can name several hosts only with"),
        ({"redis_url": "redis://h/x"}, "--redis-url: must have a number as its database"),
        ({"redis_url": "redis+sentinel://a,b"}, "--redis-url: must name the service"),
        ({"redis_url": "redis+cluster://a,b/1"}, "--redis-url: cannot choose a database"),
        ({"redis_url": "unix://"}, "--redis-url: must have the path of a socket"),
        ({"redis_url": "memory://x"}, "--redis-url: must be just memory://"),
        ({"redis_username": "me"}, "--redis-username: needs a Redis in --redis-url"),
        (
            {"anthropic_base_url": "localhost:80"},
            "--anthropic-base-url: must begin with http:// or https://",
        ),
        ({"redis_password": "pw"}, "MGE_CACHE_REDIS_PASSWORD: needs a Redis in --redis-url"),
        ({"prices_file": "/nowhere/p.toml"}, "--prices-file: there is no file /nowhere/p.toml"),
        ({"log_level": "loud"}, "--log-level: must be one of debug, info, warning, error"),
        ({"breaker_failures": "0"}, '--breaker-failures: must be at least 1, not "0"'),
        ({"lease_ttl": "1ms"}, '--lease-ttl: must be at least 10ms, not "1ms"'),
        ({"ttl_jitter": "0.5"}, "--ttl-jitter: must be a number from 0 to below 0.5"),
        ({"key_prefix": "a\nb"}, "--key-prefix: must be 1 to 64 characters"),
        ({"data_dir": "a\0b"}, "--data-dir: must not have control characters"),
        ({"colour": "red"}, "--colour: no such setting"),
    ],
)
def test_one_mistake_is_told_once(flags: dict[str, str], told: str) -> None:
    [found] = problems(flags)
    assert found.startswith(told)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"ttl = ", "not TOML"), (b"\xff", "not UTF-8"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_one_mistake(
    content: bytes | None, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    if content is not None:
        file.write_bytes(content)
    found = problems({"ttl": "soon"}, {}, file)
    assert len(found) == 2
    assert found[0].startswith(f"--config {file}: {told}")


@pytest.mark.parametrize(
    "variable",
    [
        "MGE_CACHE_SERVICE_HOST",
        "MGE_CACHE_SERVICE_PORT",
        "MGE_CACHE_SERVICE_PORT_GRPC",
        "MGE_CACHE_PORT",
        "MGE_CACHE_PORT_50151_TCP",
        "MGE_CACHE_PORT_50151_TCP_ADDR",
        "MGE_CACHE_METRICS_SERVICE_HOST",
        "MGE_CACHE_METRICS_PORT_9151_TCP_PROTO",
    ],
)
def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_mistake(variable: str) -> None:
    load_settings({}, {variable: "10.0.0.1"})


def test_no_setting_looks_like_a_service_link() -> None:
    assert [option.env for option in options() if is_service_link(option.env)] == []


def test_variables_of_others_are_no_mistake() -> None:
    load_settings({}, {"MGE_CACHE_TARGET": "x", "MGE_CACHE_REQUIRE_SERVERS": "1", "PATH": "/bin"})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().ttl_s = 1.0  # type: ignore[misc]


def test_the_page_of_settings_is_current(repository: Path) -> None:
    page = repository / "docs/settings.md"
    assert page.read_text() == settings_table(), (
        "run: python -m mge_cache_server.cli.settings_table > docs/settings.md"
    )
