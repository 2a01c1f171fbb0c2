"""The command line: a group of commands, each in its own file or folder and imported only when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import IO, Any

import click

from convolith import __version__
from convolith.errors import ConvolithError

COMMANDS = {
    "tour": "Walk through the chapter on a real photograph.",
    "correlate": "Correlate an image or an array with a kernel.",
    "plan": "Show which engine computes a layer, and why.",
    "compose": "Make two convolutions one.",
    "decompose": "Make one convolution several smaller ones.",
    "fold": "Fold a model's chains and branches of convolutions into one each.",
    "optimize": "Make a model fast on this CPU: one program of generated code.",
    "fit": "Find the kernel that turned BEFORE into AFTER.",
    "cost": "Count a layer's or a model's operations and bytes, forward and backward.",
    "serve": "Open the page: look at convolutions, compute, fit and count in the browser.",
    "doctor": "Check this installation.",
}
"""Command names with their one-line help; the command is `command` in the module of that name."""


class _Refusal(click.ClickException):
    """Error for wrong use: a message on stderr and exit code 2."""

    exit_code = 2


class _Interrupted(click.ClickException):
    """Error for Ctrl-C: one line on stderr, and the exit code of shells for a process that this signal ended."""

    exit_code = 130

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo("Interrupted", file=file, err=True)


class _Group(click.Group):
    """Group that imports a command's options only when they are needed, so that `--help` and completion are quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"convolith.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConvolithError as error:
            raise _Refusal(str(error)) from error
        except (KeyboardInterrupt, click.Abort) as error:
            raise _Interrupted("interrupted") from error
        except MemoryError as error:
            raise _Refusal(_no_memory(error)) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # torch's wording
                raise
            raise _Refusal(_no_memory(error)) from error


def _no_memory(error: Exception) -> str:
    detail = str(error).strip().partition("\n")[0]
    return f"there is not enough memory for this ({detail or 'MemoryError'}); pass less at a time"


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="convolith")
def main() -> None:
    """Compute convolutions fast, fold them into one, recover them from data, and count their cost before they run.

    Results go to stdout, progress and warnings to stderr. Every command accepts --json. Exit codes: 0 success, 1 failed
    check, 2 wrong use, 130 interrupted by Ctrl-C.
    """
