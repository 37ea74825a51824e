"""The command ``mge-cache``, also as ``python -m mge_cache_server``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        from mge_cache_server.cli.main import run  # noqa: PLC0415 (the plain install has no click)
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit('mge-cache: the command line is not installed: pip install "mge-cache[server]"')
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
