"""``mge-cache completion``: the script that makes a shell complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_MGE_CACHE_COMPLETE"


@click.command(short_help="Print the completion script of a shell.", no_args_is_help=True)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
      bash:  mge-cache completion bash > ~/.local/share/bash-completion/completions/mge-cache
      zsh:   mge-cache completion zsh > "${fpath[1]}/_mge-cache"
      fish:  mge-cache completion fish > ~/.config/fish/completions/mge-cache.fish
    """
    from mge_cache_server.cli.main import PROGRAM, cli  # noqa: PLC0415 (it imports this module)

    completion_class = get_completion_class(shell)
    if completion_class is None:  # click knows the three shells that we let through
        raise click.UsageError(f"no completion for {shell}")
    click.echo(completion_class(cli, {}, PROGRAM, _VARIABLE).source())
