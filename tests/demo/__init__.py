"""The demo: ``python -m tests.demo`` shows on real texts what the cache saves."""
