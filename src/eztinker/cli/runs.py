from __future__ import annotations

from eztinker.cli.client import rest_client
from eztinker.cli.output import JsonFlag, print_json, print_table, when


def runs(as_json: JsonFlag = False) -> None:
    """List training runs, newest first. 'list' and 'list-runs' are the same."""
    with rest_client() as client:
        found = client.runs()
    if as_json:
        print_json(found)
    elif not found:
        print("No training runs yet; make one with: eztinker create BASE_MODEL")
    else:
        rows = (
            (run["training_run_id"], run["base_model"], run.get("lora_rank"), when(run["last_request_time"]))
            for run in found
        )
        print_table(("run", "base model", "rank", "last used"), rows)
