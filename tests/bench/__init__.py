"""The benchmark: ``python -m tests.bench`` measures the sidecar beside bare references."""
