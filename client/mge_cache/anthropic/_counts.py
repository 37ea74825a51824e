"""What one middleware did, for whoever wants to know without asking the sidecar."""

from __future__ import annotations

import threading
from collections import Counter


class Counts:
    """Counts by name. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count one."""
        with self._lock:
            self._counts[name] += 1

    def as_dict(self) -> dict[str, int]:
        """Return a copy."""
        with self._lock:
            return dict(self._counts)
