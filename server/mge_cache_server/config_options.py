"""What a setting is, and how flags, environment and file are merged into values.

This knows the form of settings; which there are is in ``config``.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mge_cache_server import config_parse as parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ENV_PREFIX = "MGE_CACHE_"
OTHER_VARIABLES = frozenset({"MGE_CACHE_TARGET", "MGE_CACHE_CONFIG", "MGE_CACHE_REQUIRE_SERVERS"})
"""Variables with the prefix that are not settings of the sidecar.

The last one is for the tests: CI sets it for all that it runs, also for the sidecars that the
benchmark and the demo start with its environment.
"""

# Kubernetes puts these into every pod of a namespace that has a service called mge-cache-something.
_SERVICE_LINK = re.compile(
    r"MGE_CACHE_(?:\w+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: how it is read and written, and what else than text the file may hold."""

    name: str
    parse: Callable[[str], object]
    show: Callable[..., str] = str
    toml: tuple[type, ...] = ()


TEXT = Kind("text", parse.parse_text)
PATH = Kind("path", parse.parse_path)
ADDRESS = Kind("host:port", parse.parse_address)
KEY_PREFIX = Kind("text", parse.parse_key_prefix)
DURATION = Kind("duration", parse.parse_duration, parse.format_duration, (int, float))
SIZE = Kind("size", parse.parse_size, parse.format_size, (int,))
COUNT = Kind("number", parse.parse_count, str, (int,))
JITTER = Kind("number", parse.parse_jitter, str, (int, float))
COSINE = Kind("number", parse.parse_cosine, str, (int, float))
COSINE_OR_NONE = Kind(
    "number", parse.parse_cosine_or_none, parse.format_cosine_or_none, (int, float)
)
COSINES = Kind("name=number,...", parse.parse_cosines, parse.format_cosines, (dict,))
DOLLARS = Kind("number", parse.parse_dollars, parse.format_dollars, (int, float))
BOOL = Kind("true/false", parse.parse_bool, parse.format_bool, (bool,))
# Not a number in the file: 660 would be read as decimal there.
MODE = Kind("mode", parse.parse_mode, parse.format_mode)
NAMESPACE_TTLS = Kind(
    "name=duration,...", parse.parse_namespace_ttls, parse.format_namespace_ttls, (dict,)
)


def choice(*values: str) -> Kind:
    """Make the kind of a setting that has one of a few values."""

    def parse_choice(text: str) -> str:
        if text.strip().lower() not in values:
            msg = f"must be one of {', '.join(values)}"
            raise ValueError(msg)
        return text.strip().lower()

    return Kind("|".join(values), parse_choice)


@dataclass(frozen=True, slots=True)
class Spec:
    """What the definition of a setting says about it (see ``config.Settings``)."""

    kind: Kind
    help: str
    low: float | None = None
    high: float | None = None
    secret: bool = False
    env: str = ""
    default_text: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    """A setting as users see it."""

    field: str
    spec: Spec
    default: object

    @property
    def name(self) -> str:
        """The name in the file: the field's, without its unit."""
        return re.sub(r"_(?:s|bytes)$", "", self.field)

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The name of the environment variable."""
        return self.spec.env or ENV_PREFIX + self.name.upper()

    @property
    def label(self) -> str:
        """How a message names the setting. Secrets have no flag: other users see command lines."""
        return self.env if self.spec.secret else self.flag

    @property
    def default_text(self) -> str:
        """The default as users write it, empty if it is empty."""
        return self.spec.default_text or self.show(self.default)

    def show(self, value: object) -> str:
        """Write a value as users do; a secret is masked."""
        if self.spec.secret:
            return "***" if value else ""
        text = self.spec.kind.show(value)
        return parse.mask_url(text) if self.field.endswith("_url") else text

    def read(self, raw: object) -> object:
        """Turn what a source holds into the setting's value; ValueError tells the mistake."""
        value = self.spec.kind.parse(self._as_text(raw))
        low, high = self.spec.low, self.spec.high
        if isinstance(value, int | float) and not isinstance(value, bool):
            show = self.spec.kind.show
            if low is not None and value < low:
                msg = f"must be at least {show(low)}"
                raise ValueError(msg)
            if high is not None and value > high:
                msg = f"must be at most {show(high)}"
                raise ValueError(msg)
        return value

    def _as_text(self, raw: object) -> str:
        if isinstance(raw, str):
            return raw
        if type(raw) not in self.spec.kind.toml:
            kind = self.spec.kind
            msg = "must be true or false" if kind is BOOL else f"must be a {kind.name} in quotes"
            raise ValueError(msg)
        if isinstance(raw, dict):
            return ",".join(f"{name}={_toml_number(value)}" for name, value in raw.items())
        return _toml_number(raw)


def _toml_number(value: object) -> str:
    return parse.format_bool(value) if isinstance(value, bool) else str(value)


def options_of(settings_type: type) -> tuple[Option, ...]:
    """List the settings of a dataclass whose fields carry a ``Spec``, in their order."""
    result = []
    for field in dataclasses.fields(settings_type):
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        result.append(Option(field.name, field.metadata["spec"], default))
    return tuple(result)


@dataclass(frozen=True, slots=True)
class Merged:
    """Values by field, where each came from (for messages), what has none, and the mistakes."""

    values: Mapping[str, object]
    origins: Mapping[str, str]
    broken: frozenset[str]
    problems: tuple[str, ...]


def merge(
    options: Iterable[Option],
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    file: Mapping[str, object],
    file_name: str,
) -> Merged:
    """Read every setting from the first source that has it: flags, environment, file.

    A source is checked even where another one overrides it: a mistake in it would come up later.
    ``flags`` has the names of the file; a flag that is None was not given.
    """
    options = tuple(options)
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    broken: set[str] = set()
    problems: list[str] = []
    for option in options:
        sources = (
            (f" in {file_name}", file.get(option.name)),
            (f" in {option.env}", environ.get(option.env)),
            ("", flags.get(option.name)),
        )
        for origin, raw in sources:
            if raw is None:
                continue
            try:
                values[option.field] = option.read(raw)
                origins[option.field] = origin
            except ValueError as error:
                broken.add(option.field)
                problems.append(f"{option.label}: {error}{_given(option, raw, origin)}")
    problems += _unknown_names(options, flags, environ, file, file_name)
    return Merged(values, origins, frozenset(broken), tuple(problems))


def _given(option: Option, raw: object, origin: str) -> str:
    if option.spec.secret:
        shown = ""
    elif isinstance(raw, str):
        shown = parse.mask_url(raw)
    else:
        shown = "" if isinstance(raw, dict) else _toml_number(raw)
    return f', not "{shown}"{origin}' if shown or not origin else f" (as given{origin})"


def _unknown_names(
    options: tuple[Option, ...],
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    file: Mapping[str, object],
    file_name: str,
) -> list[str]:
    names = [option.name for option in options]
    variables = [option.env for option in options] + sorted(OTHER_VARIABLES)
    problems = [f"{_flag(name)}: no such setting" for name in flags if name not in names]
    problems += [
        f"{name}: no such setting in {file_name}{_near(name, names)}"
        for name in file
        if name not in names
    ]
    problems += [
        f"{name}: no such setting{_near(name, variables)}"
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX) and name not in variables and not is_service_link(name)
    ]
    return problems


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def is_service_link(variable: str) -> bool:
    """Whether Kubernetes sets a variable of this name for a service of our name."""
    return _SERVICE_LINK.fullmatch(variable) is not None


def _near(name: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 (only for mistakes)

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f' (did you mean "{near[0]}"?)' if near else ""
