"""Prometheus metrics of the files that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from mge_cache_server.watched_files import WatchedFiles


class FilesCollector(Collector):
    """Yields what a ``WatchedFiles`` found last."""

    def __init__(self, files: WatchedFiles) -> None:
        self._files = files

    def collect(self) -> Iterator[Metric]:
        """Yield both metrics, without samples if no file is set."""
        readable = GaugeMetricFamily(
            "mge_cache_file_readable",
            "1 if the file that a setting names can be used, else 0.",
            labels=("file",),
        )
        expiry = GaugeMetricFamily(
            "mge_cache_certificate_expiry_seconds",
            "When the certificate ends, in seconds since 1970.",
            labels=("file",),
        )
        for name, state in self._files.states.items():
            readable.add_metric((name,), float(not state.problem))
            if state.ends_s is not None:
                expiry.add_metric((name,), state.ends_s)
        yield readable
        yield expiry
