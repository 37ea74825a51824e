"""The group of all commands, and what their failures look like."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING

import click

from mge_cache._version import __version__
from mge_cache_server.cli.failures import INTERRUPTED, NEGATIVE, OK, USAGE, CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "mge-cache"

# Where each command is: `serve` must not pay for what only the others need.
_COMMANDS = {
    "serve": "serve",
    "stats": "stats",
    "get": "entries",
    "set": "entries",
    "key": "entries",
    "rag": "rag",
    "generate": "generate",
    "fetch": "generate",
    "invalidate": "invalidate",
    "warm": "warm",
    "export": "transfer",
    "import": "transfer",
    "doctor": "doctor",
    "health": "health",
    "completion": "completion",
}
_ATTRIBUTES = {"set": "set_", "import": "import_"}


class LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Name all commands, in the order in which help shows them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None if there is none of this name."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"mge_cache_server.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, _ATTRIBUTES.get(cmd_name, cmd_name))
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """MGE cache: a sidecar that knows which LLM answers have already been paid for.

    \b
    Try it, in two terminals:
      mge-cache serve
      mge-cache set --model demo --answer "Hi there" "Hello" && mge-cache get --model demo "Hello"

    Exit codes: 0 ok, 1 a negative answer (a miss, bad lines, something to mend), 2 wrong usage or
    configuration, 3 the sidecar (or the store) cannot be reached, 4 it refused.
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; expected failures become one line on stderr."""
    # What libraries log, a command says itself; `serve` sets logging up in place of this.
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())
    try:
        code = cli.main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        context = error.ctx
        hint = f" (try '{context.command_path} --help')" if context else ""
        return _fail(error.format_message() + hint, USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), USAGE)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except CommandError as error:
        return _fail(str(error), error.code)
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        # The reader has enough. What is still buffered must not fail again at exit. (Where a
        # command itself meets the closed pipe, click ends it with 1.)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NEGATIVE
    return code if isinstance(code, int) else OK


def _fail(text: str, code: int) -> int:
    for line in text.splitlines():
        click.echo(f"{PROGRAM}: {line}", err=True)
    return code
