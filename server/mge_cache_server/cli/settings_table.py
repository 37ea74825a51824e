"""Writes docs/settings.md: python -m mge_cache_server.cli.settings_table > docs/settings.md."""

from __future__ import annotations

import sys

from mge_cache_server.config import options

_HEAD = """\
# Settings

Every setting of `mge-cache serve` (and of `doctor`, `export` and `import`) can be given as a flag,
as an environment variable, or in a TOML file that `--config` or `MGE_CACHE_CONFIG` names. A flag
wins over the environment, and the environment over the file. All mistakes are reported together,
unknown names too. The name in the file is the flag's, with `_` in place of `-`:

```toml
redis_url = "rediss://redis.example:6380/0"
redis_password_file = "/run/secrets/redis-password"
ttl = "12h"
l1_max = "128MiB"

[namespace_ttl]
plans = "1h"
search = "10m"
```

Durations are written `50ms`, `10s`, `5m`, `24h`, `7d`, `1h30m` or as plain seconds; sizes `64MiB`,
`8MB`, `512KiB` or as plain bytes; a file mode in octal and, in the file, in quotes (`"660"`).

| flag | environment | default | meaning |
|---|---|---|---|
"""


def settings_table() -> str:
    """Return the page as Markdown."""
    rows = []
    for option in options():
        flag = "(none: others can read command lines)" if option.spec.secret else f"`{option.flag}`"
        default = f"`{option.default_text}`" if option.default_text else ""
        meaning = option.spec.help.replace("|", "\\|")
        rows.append(f"| {flag} | `{option.env}` | {_cell(default)} | {meaning} |\n")
    return _HEAD + "".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(settings_table())
