from __future__ import annotations

from datetime import UTC, datetime

from eztinker.cli.output import JsonFlag, age, print_json, print_table
from eztinker.rest_client import rest_client


def runs(as_json: JsonFlag = False) -> None:
    """List training runs, newest first. 'list' and 'list-runs' are the same.

    The loss is that of the last batch, per trained token in nats. Each id, and each name, stands for the run in every
    command and in tinker:// paths.
    """
    with rest_client() as client:
        found = client.runs()
    if as_json:
        print_json(found)
    elif not found:
        print("No training runs yet; make one with: eztinker create BASE_MODEL")
    else:
        with_notes = any(run["note"] for run in found)
        columns = ("run", "name", "model", "steps", "loss", "age", *(("note",) if with_notes else ()))
        print_table(columns, (_cells(run, with_notes) for run in found))


def _cells(run: dict, with_notes: bool) -> tuple[object, ...]:
    loss = run["last_loss"]
    return (
        run["run_id"],
        run["name"],
        run["base_model"].rpartition("/")[2],
        run["num_steps"],
        None if loss is None else f"{loss:.3f}",
        age(run["created_at"], datetime.now(UTC)),
        *((run["note"],) if with_notes else ()),
    )
