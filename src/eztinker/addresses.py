"""Where a server listens: loopback or not, and the URL that reaches it."""

from __future__ import annotations

import ipaddress

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach `host`; an unknown name counts as reachable by others."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(host: str, port: int) -> str:
    """The URL under which this machine reaches a server that listens on `host` and `port`."""
    reachable = _EVERY_INTERFACE.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
