from __future__ import annotations

from eztinker.cli.output import JsonFlag, print_json
from eztinker.errors import ServerUnreachable
from eztinker.settings.client_settings import client_settings, server_is_up


def health(as_json: JsonFlag = False) -> None:
    """Tell whether the server answers; exit 1 if not."""
    base_url = client_settings().base_url
    if not server_is_up(base_url):
        raise ServerUnreachable(f"No EZTinker server answers at {base_url}; start one with: eztinker server")
    if as_json:
        print_json({"base_url": base_url, "healthy": True})
    else:
        print(f"The server at {base_url} answers.")
