from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eztinker.cli.output import JsonFlag, print_json, print_table, when
from eztinker.data_dir import local_data_dir

if TYPE_CHECKING:
    from eztinker.issued_keys import IssuedKey

keys = typer.Typer(no_args_is_help=True, help="Hand out keys to other people, list them, revoke them.")

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", readable=False, help="Data directory of the server.", show_default="~/.eztinker"),
]


@keys.command()
def create(
    owner: Annotated[str, typer.Option(help="Whose key it is; objects belong to owners, not to keys.")],
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and print it; it cannot be shown again.

    Example: eztinker keys create --owner ann
    """
    from eztinker.issued_keys import issue_key

    new = issue_key(data_dir or local_data_dir(), owner, datetime.now(UTC))
    if as_json:
        print_json({**_row(new.issued), "key": new.key})
        return
    print(new.key)
    sys.stderr.write(f"This is key {new.issued.key_id} of {owner}. It is kept as a hash: it cannot be shown again.\n")


@keys.command("list")
def list_keys(data_dir: DataDir = None, as_json: JsonFlag = False) -> None:
    """List the keys that were handed out."""
    from eztinker.issued_keys import issued_keys

    rows = [_row(key) for key in issued_keys(data_dir or local_data_dir())]
    if as_json:
        print_json(rows)
        return
    shown = ((row["key_id"], row["owner"], when(row["created_at"]), when(row["revoked_at"])) for row in rows)
    print_table(("key", "owner", "created", "revoked"), shown)


@keys.command()
def revoke(
    key_id: Annotated[int, typer.Argument(help="Number of the key, as 'eztinker keys list' shows it.", metavar="KEY")],
    data_dir: DataDir = None,
) -> None:
    """End a key at once, in a running server too. What its owner has made stays."""
    from eztinker.issued_keys import revoke_key

    revoked = revoke_key(data_dir or local_data_dir(), key_id, datetime.now(UTC))
    print(f"Revoked key {revoked.key_id} of {revoked.owner}")


def _row(key: IssuedKey) -> dict:
    return {
        "key_id": key.key_id,
        "owner": key.owner,
        "created_at": key.created_at.isoformat(),
        "revoked_at": None if key.revoked_at is None else key.revoked_at.isoformat(),
    }
