"""Exit codes, and the one error that ends a command with a line on stderr."""

from __future__ import annotations

OK = 0
NEGATIVE = 1
"""The command worked, and its answer is no: a miss, bad lines, something to mend."""
USAGE = 2
UNREACHABLE = 3
REFUSED = 4
INTERRUPTED = 130


class CommandError(Exception):
    """Ends the command with ``code``; each line of the text goes to stderr after "mge-cache: "."""

    def __init__(self, text: str, code: int = NEGATIVE) -> None:
        super().__init__(text)
        self.code = code
