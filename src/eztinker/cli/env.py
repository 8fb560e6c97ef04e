from __future__ import annotations

import shlex
import urllib.request

from eztinker.cli.output import JsonFlag, print_json
from eztinker.errors import ServerUnreachable
from eztinker.settings.client_settings import client_settings, no_proxy_variables


def env(as_json: JsonFlag = False) -> None:
    """Print the variables the official SDK reads.

    Example: eval "$(eztinker env)"
    """
    found = variables()
    if not found:
        raise ServerUnreachable("No key is known yet: the first start makes one; run: eztinker server")
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        print(f"export {name}={shlex.quote(value)}")


def variables() -> dict[str, str]:
    """Environment variables by which the official SDK reaches the server; empty as long as no key is known."""
    settings = client_settings()
    if not settings.api_key:
        return {}
    beside_proxies = no_proxy_variables(settings.base_url) if urllib.request.getproxies() else {}
    return {"TINKER_BASE_URL": settings.base_url, "TINKER_API_KEY": settings.api_key, **beside_proxies}
