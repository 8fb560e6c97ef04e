from __future__ import annotations

from eztinker.cli.output import JsonFlag, print_json, print_table
from eztinker.client_settings import client_settings
from eztinker.rest_client import rest_client


def status(as_json: JsonFlag = False) -> None:
    """Show the server's address, its models, and how many runs and checkpoints it keeps."""
    with rest_client() as client:
        facts = {
            "address": client_settings().base_url,
            "models": [model["model_name"] for model in client.models()],
            "runs": len(client.runs()),
            "checkpoints": len(client.checkpoints()),
        }
    if as_json:
        print_json(facts)
    else:
        rows = {**facts, "models": ", ".join(facts["models"])}
        print_table(("server", ""), rows.items())
