from __future__ import annotations

from eztinker.cli.client import rest_client
from eztinker.cli.output import JsonFlag, print_json, print_table, when


def runs(as_json: JsonFlag = False) -> None:
    """List training runs, newest first. 'list' and 'list-runs' are the same."""
    with rest_client() as client:
        found = client.runs()
    if as_json:
        print_json([{"run_id": run.run_id, **run.newest} for run in found])
    elif not found:
        print("No training runs yet; make one with: eztinker create BASE_MODEL")
    else:
        newest = ((run.run_id, run.newest) for run in found)
        rows = ((id_, new["base_model"], new.get("lora_rank"), when(new["last_request_time"])) for id_, new in newest)
        print_table(("run", "base model", "rank", "last used"), rows)
