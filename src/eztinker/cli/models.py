from __future__ import annotations

from eztinker.cli.output import JsonFlag, print_json, print_table
from eztinker.rest_client import rest_client


def models(as_json: JsonFlag = False) -> None:
    """List the base models the server serves."""
    with rest_client() as client:
        found = client.models()
    if as_json:
        print_json(found)
    elif not found:
        print("The server serves no base model; start it with: eztinker server --base-model NAME")
    else:
        print_table(("base model", "context (tokens)"), ((m["model_name"], m.get("max_context_length")) for m in found))
