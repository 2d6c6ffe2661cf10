"""`hitl completion SHELL`: the script by which a shell completes verbs and flags."""

from __future__ import annotations

from typing import Literal

from cyclopts import App


def register(app: App) -> None:
    """Add the verb."""
    app.command(completion)


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the script that completes `hitl` in a shell: eval "$(hitl completion bash)", or a file where it looks.

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    from hitl_stream.cli.main import build  # here: it is what imports this module

    print(build().generate_completion(prog_name="hitl", shell=shell), end="")
    return 0
