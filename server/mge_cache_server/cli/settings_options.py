"""The options of the commands that read the sidecar's configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mge_cache_server.cli.failures import USAGE, CommandError
from mge_cache_server.config import CONFIG_VARIABLE, ConfigError, load_settings, options
from mge_cache_server.config_options import BOOL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from mge_cache_server.config import Settings
    from mge_cache_server.config_options import Option

STORE_SETTINGS = (
    "redis_url",
    "redis_username",
    "redis_password_file",
    "redis_tls_ca_file",
    "redis_tls_cert_file",
    "redis_tls_key_file",
    "sentinel_password_file",
    "data_dir",
    "key_prefix",
    "store_timeout",
)
"""What says where the store is, for the commands that go to it directly."""


def settings_options(names: Sequence[str] = ()) -> Callable[[Any], Any]:
    """Give a command ``--config`` and an option for each setting (of ``names``, if given)."""

    def decorate(command: Any) -> Any:
        for option in reversed(options()):
            if not option.spec.secret and (not names or option.name in names):
                command = _as_click_option(option)(command)
        return click.option(
            "--config",
            type=click.Path(path_type=Path),
            help=f"A TOML file with settings.  [env: {CONFIG_VARIABLE}]",
        )(command)

    return decorate


def _as_click_option(option: Option) -> Callable[[Any], Any]:
    default = option.default_text or "none"
    help_ = f"{option.spec.help}  [default: {default}; env: {option.env}]"
    if option.spec.kind is BOOL:
        both = f"{option.flag}/--no-{option.flag[2:]}"
        return click.option(both, option.name, default=None, help=help_)
    return click.option(option.flag, option.name, metavar=option.spec.kind.name.upper(), help=help_)


def to_texts(flags: Mapping[str, str | bool | None]) -> dict[str, str | None]:
    """Write the flags' values as ``load_settings`` takes them."""
    return {
        name: ("true" if value else "false") if isinstance(value, bool) else value
        for name, value in flags.items()
    }


def read_settings(config: Path | None, flags: Mapping[str, str | bool | None]) -> Settings:
    """Load the settings; all mistakes end the command with exit code 2."""
    try:
        return load_settings(to_texts(flags), os.environ, config)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from None
