"""The commands, and how a wrong argument is answered: in one line, with exit status 2."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import batching

from .bench import HELP, bench
from .probe.command import HELP as PROBE_HELP
from .probe.command import SERVE_HELP, probe, serve

# typer brings a copy of click since 0.24 and used the real one before; its public
# exception leads to the base classes of whichever it is.
_UsageError: Any = typer.BadParameter.__mro__[1]
_ClickException: Any = _UsageError.__mro__[1]


class _OneLine(TyperGroup):
    """A group of commands whose usage errors are one line on stderr, not a box."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs |= {"standalone_mode": False, "prog_name": "batching"}
        try:
            status = super().main(*args, **kwargs)
        except _ClickException as error:
            print(_line(error), file=sys.stderr)
            sys.exit(2)
        except (typer.Abort, KeyboardInterrupt):
            sys.exit(130)  # 128 + SIGINT
        except BrokenPipeError:
            sys.stderr.close()  # or the interpreter complains of stdout when it ends
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take two words for one command where they are, as in ``probe serve``."""
        two = " ".join(args[:2])
        if two in self.commands and len(args) > 1:
            return two, self.commands[two], args[2:]
        return super().resolve_command(ctx, args)


def _line(error: Any) -> str:
    """Return what is wrong and what is allowed, on one line."""
    ctx = getattr(error, "ctx", None)
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    if ctx is None:
        return f"batching: {message}"
    if message.startswith(("no such command", "missing command")):
        message += f"; commands: {', '.join(sorted(ctx.command.commands))}"
    elif message.startswith("no such option"):
        options = [name for param in ctx.command.params for name in param.opts]
        message += f"; options: {', '.join(options)}, --help"
    elif message.startswith("got unexpected extra argument"):
        arguments = [p.metavar for p in ctx.command.params if p.param_type_name == "argument"]
        takes = " and ".join([*arguments, "options"])
        message += f"; {ctx.command_path} takes {takes} only, see {ctx.command_path} --help"
    return f"{ctx.command_path}: {message}"


app = typer.Typer(
    cls=_OneLine,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(help=HELP)(bench)
app.command(help=PROBE_HELP)(probe)
app.command("probe serve", help=SERVE_HELP)(serve)


def _version(asked: bool) -> None:
    if asked:
        print(f"batching {batching.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    _asked: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """A UDP socket optimised for throughput: what it does on this machine.

    [bold]Examples[/bold]

      batching bench
      batching bench --size 1200 --json result.json
      batching probe
      batching bench --help
    """
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
