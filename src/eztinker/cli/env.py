from __future__ import annotations

import shlex

from eztinker.cli.output import JsonFlag, print_json
from eztinker.client_settings import client_settings
from eztinker.errors import ServerUnreachable


def env(as_json: JsonFlag = False) -> None:
    """Print the variables the official SDK reads.

    Example: eval "$(eztinker env)"
    """
    settings = client_settings()
    if not settings.api_key:
        raise ServerUnreachable("No key is known yet: the first start makes one; run: eztinker server")
    variables = {"TINKER_BASE_URL": settings.base_url, "TINKER_API_KEY": settings.api_key}
    if as_json:
        print_json(variables)
        return
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")
