from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eztinker.cli import completion
from eztinker.cli.output import JsonFlag, print_json, print_table, when
from eztinker.settings.data_dir import local_data_dir, make_data_dir

if TYPE_CHECKING:
    from eztinker.keys.issued_keys import IssuedKey

keys = typer.Typer(no_args_is_help=True, help="Hand out keys to other people, list them, revoke them.")

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", readable=False, help="Data directory of the server.", show_default="~/.eztinker"),
]


@keys.command()
def create(
    name: Annotated[
        str | None, typer.Argument(help="Whose key it is; objects belong to owners, not to keys.", show_default=False)
    ] = None,
    owner: Annotated[str | None, typer.Option(help="The same as NAME.", show_default=False)] = None,
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and print it; it cannot be shown again.

    Example: eztinker keys create ann
    """
    from eztinker.keys.issued_keys import issue_key

    if (name is None) == (owner is None):
        raise typer.BadParameter("name the owner of the key once: eztinker keys create NAME")
    owner = name or owner or ""
    directory = data_dir or local_data_dir()
    make_data_dir(directory)
    new = issue_key(directory, owner, datetime.now(UTC))
    if as_json:
        print_json({**_row(new.issued), "key": new.key})
        return
    print(new.key)
    sys.stderr.write(f"This is key {new.issued.key_id} of {owner}. It is kept as a hash: it cannot be shown again.\n")


@keys.command("list")
def list_keys(data_dir: DataDir = None, as_json: JsonFlag = False) -> None:
    """List the keys that were handed out."""
    from eztinker.keys.issued_keys import issued_keys

    rows = [_row(key) for key in issued_keys(data_dir or local_data_dir())]
    if as_json:
        print_json(rows)
        return
    if not rows:
        print("No keys have been handed out yet; make one with: eztinker keys create NAME")
        return
    shown = ((row["key_id"], row["owner"], when(row["created_at"]), when(row["revoked_at"])) for row in rows)
    print_table(("key", "owner", "created", "revoked"), shown)


@keys.command()
def revoke(
    key: Annotated[
        str,
        typer.Argument(
            help="Number of a key, as 'eztinker keys list' shows it, or an owner's name: all of theirs.",
            metavar="KEY|NAME",
            autocompletion=completion.keys,
        ),
    ],
    data_dir: DataDir = None,
) -> None:
    """End a key at once, in a running server too. What its owner has made stays.

    Example: eztinker keys revoke ann
    """
    from eztinker.errors import NotFound
    from eztinker.keys.issued_keys import issued_keys, revoke_key

    directory = data_dir or local_data_dir()
    if key.isascii() and key.isdigit():
        key_ids = [int(key)]
    else:
        key_ids = [each.key_id for each in issued_keys(directory) if each.owner == key and each.revoked_at is None]
    if not key_ids:
        raise NotFound(f"{key} has no valid key; see: eztinker keys list")
    make_data_dir(directory)
    for key_id in key_ids:
        revoked = revoke_key(directory, key_id, datetime.now(UTC))
        print(f"Revoked key {revoked.key_id} of {revoked.owner}")


def _row(key: IssuedKey) -> dict:
    return {
        "key_id": key.key_id,
        "owner": key.owner,
        "created_at": key.created_at.isoformat(),
        "revoked_at": None if key.revoked_at is None else key.revoked_at.isoformat(),
    }
