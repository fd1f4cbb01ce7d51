"""What the commands of gatewayctl share: the daemon, how to print, and how commands are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typer.core import TyperGroup

from gateway.cli import output, views
from gateway.cli.client import Client


class Session:
    """What every command needs: the daemon, and how to print."""

    client = Client()
    style = output.Style()


class Abbreviated(TyperGroup):
    """`gatewayctl st` is `status` as long as nothing else begins so."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        matches = [name for name in self.list_commands(ctx) if name.startswith(cmd_name)]
        return super().get_command(ctx, matches[0]) if len(matches) == 1 else None


SETTINGS: dict[str, Any] = {
    "cls": Abbreviated,
    "no_args_is_help": True,
    "rich_markup_mode": None,
    "add_completion": False,
}


def present(document: views.Json, key: str, part: Any, view: Callable[[], list[views.Block]]) -> None:
    """A part of the daemon's answer: as JSON under its name, or as it is viewed."""
    if Session.style.form == "json":
        output.show_json({name: document[name] for name in ("schema", "now", "taken_at")} | {key: part})
    else:
        output.show_view(view(), Session.style)
