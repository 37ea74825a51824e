"""A masterplan's run without and with the cache, end to end and in separate processes."""
