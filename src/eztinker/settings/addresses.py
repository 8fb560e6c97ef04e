"""Addresses that a server listens on: loopback or not, and the URL that reaches them."""

from __future__ import annotations

import ipaddress

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def is_loopback(host: str) -> bool:
    """True if only programs on this machine can reach `host`; an unknown name counts as reachable by others.

    Names are the same in any case, and with the dot that ends a name of the DNS in full (RFC 9110, 4.2.3; RFC 3986,
    3.2.2).
    """
    name = host.lower().removesuffix(".")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def url_of(host: str, port: int) -> str:
    """The URL under which this machine reaches a server that listens on `host` and `port`."""
    reachable = _EVERY_INTERFACE.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
