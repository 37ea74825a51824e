"""``python -m tools.chart_files [--check]``: writes the sidecar's settings into the charts.

The library chart takes settings by their names in the configuration file. Which there are, what
each may hold and its environment variable come from ``config.options()``: into the schema of the
values, and into a template that maps names to variables.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mge_cache_server import config_options as kinds
from mge_cache_server.config import options

if TYPE_CHECKING:
    from mge_cache_server.config_options import Option

LIBRARY = Path(__file__).resolve().parent.parent / "helm" / "mge-cache-sidecar"
DECIDED_BY_OTHER_VALUES = re.compile(
    r"unix_socket|unix_mode|listen|http_listen|data_dir|shutdown_delay|sentinel_password_file"
    r"|redis_.*|anthropic_api_key.*"
)
_DURATION = r"^\s*([0-9.]+|([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?([0-9.]+ms)?)\s*$"
_SIZE = r"^\s*[0-9]+([.][0-9]+)? ?([kKmMgG]?[iI]?[bB])?\s*$"
_TEXTS = {"type": ["string", "number", "boolean"]}
_MAP_OR_TEXT: dict[str, Any] = {
    "type": ["object", "string"],
    "additionalProperties": {"type": ["string", "number"]},
}
_SCHEMAS: dict[str, dict[str, Any]] = {
    kinds.DURATION.name: {"type": ["string", "number"], "pattern": _DURATION, "minLength": 1},
    kinds.SIZE.name: {"type": ["string", "integer"], "pattern": _SIZE},
    kinds.BOOL.name: {"type": "boolean"},
    kinds.TEXT.name: {"type": "string"},
    kinds.PATH.name: {"type": "string"},
    kinds.NAMESPACE_TTLS.name: _MAP_OR_TEXT,
    kinds.COSINES.name: _MAP_OR_TEXT,
}


def chart_options() -> tuple[Option, ...]:
    """List the settings that the chart's values may hold under ``settings``."""
    return tuple(
        option
        for option in options()
        if not option.spec.secret and DECIDED_BY_OTHER_VALUES.fullmatch(option.name) is None
    )


def settings_schema() -> dict[str, Any]:
    """Return the schema of ``settings``."""
    return {
        "description": "Settings by their names in the configuration file (docs/settings.md).",
        "type": "object",
        "additionalProperties": False,
        "properties": {option.name: _schema_of(option) for option in chart_options()},
    }


def _schema_of(option: Option) -> dict[str, Any]:
    schema = {"description": option.spec.help, **_kind_schema(option)}
    if schema["type"] in ("integer", "number"):  # a list where text is allowed too
        bounds = (("minimum", option.spec.low), ("maximum", option.spec.high))
        schema |= {name: bound for name, bound in bounds if bound is not None}
    return schema


def _kind_schema(option: Option) -> dict[str, Any]:
    kind = option.spec.kind
    if kind is kinds.COUNT:
        return {"type": "integer", "minimum": 0}
    if "|" in kind.name:
        return {"type": "string", "enum": kind.name.split("|")}
    if kind.name == kinds.JITTER.name:
        return {"type": "number", "minimum": 0}
    return _SCHEMAS.get(kind.name, _TEXTS)


def settings_template() -> str:
    """Return the template that maps the names of settings to environment variables."""
    lines = "".join(f"{option.name}: {option.env}\n" for option in chart_options())
    return (
        "{{/* Written by `make helm-files`. */}}\n"
        '{{- define "mge-cache-sidecar.settingNames" -}}\n'
        f"{lines}"
        "{{- end -}}\n"
    )


def generated(library: Path = LIBRARY) -> dict[Path, str]:
    """Return the files that this writes, with their content."""
    schema_file = library / "values.schema.json"
    schema = json.loads(schema_file.read_text(encoding="utf-8"))
    schema["properties"]["settings"] = settings_schema()
    return {
        schema_file: json.dumps(schema, indent=2) + "\n",
        library / "templates" / "_settings.tpl": settings_template(),
    }


def main() -> int:
    """Write the files, or say which are stale; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the sidecar's settings into the charts.")
    parser.add_argument("--check", action="store_true", help="change nothing, name what is stale")
    check = parser.parse_args().check
    stale = 0
    for path, content in generated().items():
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        if check:
            print(f"{path}: stale, run `make helm-files`", file=sys.stderr)
            stale = 1
        else:
            path.write_text(content, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
