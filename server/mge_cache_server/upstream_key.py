"""The key to Anthropic, which may change while the sidecar runs."""

from __future__ import annotations

from pathlib import Path


class Key:
    """The key, from a file that is read again when it changes, or from the environment."""

    def __init__(self, file: str, fallback: str) -> None:
        self._file = Path(file) if file else None
        self._key = "" if file else fallback
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> str:
        """Return the present key, "" if there is none: it cannot be read, or is empty."""
        if self._file is None:
            return self._key
        try:
            # Kubernetes replaces a secret by a link to another file: follow it each time.
            stat = self._file.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen != self._seen:
                self._key, self._seen = self._file.read_text(encoding="utf-8").strip(), seen
        except (OSError, UnicodeDecodeError):
            self._key, self._seen = "", None
        return self._key


def is_usable(key: str) -> bool:
    """Whether it can be sent at all."""
    return bool(key) and key.isascii() and key.isprintable()
