"""The server that local tools talk to, and the key they send."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from eztinker.errors import ConfigError, ServerUnreachable
from eztinker.keys.server_key import read_api_key
from eztinker.settings.addresses import is_loopback
from eztinker.settings.data_dir import local_data_dir, running_server

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
_PROBE_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSettings:
    """Address of a server and the key for it."""

    base_url: str
    api_key: str = field(repr=False)
    """Empty where no server has ever started here and none was set."""


def client_settings() -> ClientSettings:
    """Find the server to use: EZTINKER_* variables, then TINKER_*, then the server of the data directory.

    The key of the data directory goes to loopback addresses only; it is no other server's business.

    Raises:
        ConfigError: the address is no URL, or a server elsewhere was named without a key.
    """
    named_url = os.environ.get("EZTINKER_BASE_URL") or os.environ.get("TINKER_BASE_URL")
    base_url = _checked(named_url.rstrip("/")) if named_url else _local_url()
    return ClientSettings(base_url=base_url, api_key=_key_for(base_url, is_named=bool(named_url)))


def server_is_up(base_url: str) -> bool:
    """True if a server answers at `base_url` within two seconds."""
    return _is_good(f"{base_url}/healthz")


def engine_is_ready(base_url: str) -> bool:
    """True if a server says at `base_url`, within two seconds, that its engine takes commands."""
    return _is_good(f"{base_url}/readyz")


def _is_good(url: str) -> bool:
    proxies = {} if is_loopback(urlsplit(url).hostname or "") else None  # no proxy stands before this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    try:
        with opener.open(url, timeout=_PROBE_TIMEOUT_SECONDS) as response:
            return response.status == 200
    except (OSError, ValueError):
        return False


def require_server() -> ClientSettings:
    """Find a server that answers.

    Raises:
        ServerUnreachable: none answers.
        ConfigError: it answers, but no key for it is known.
    """
    settings = client_settings()
    if not server_is_up(settings.base_url):
        raise ServerUnreachable(
            f"No EZTinker server answers at {settings.base_url}; start one in another terminal with: eztinker server"
        )
    if not settings.api_key:
        raise ConfigError(f"No key for {settings.base_url} is known; set EZTINKER_API_KEY to the key of that server")
    return settings


def bypass_proxies(base_url: str) -> None:
    """Keep the requests of this process to a server on this machine away from the proxies of the environment.

    HTTP clients that read HTTP_PROXY read NO_PROXY as well, so the host joins it, and nothing else changes.
    """
    os.environ.update(no_proxy_variables(base_url))


def no_proxy_variables(base_url: str) -> dict[str, str]:
    """NO_PROXY and no_proxy as they have to be, so that no proxy stands between us and a server on this machine."""
    host = urlsplit(base_url).hostname or ""
    if not is_loopback(host):
        return {}
    listed = {name: [each for each in os.environ.get(name, "").split(",") if each] for name in ("NO_PROXY", "no_proxy")}
    return {name: ",".join([*hosts, host]) for name, hosts in listed.items() if host not in hosts}


def _local_url() -> str:
    server = running_server(local_data_dir())
    return server.url if server else DEFAULT_BASE_URL


def _key_for(base_url: str, *, is_named: bool) -> str:
    own, hosted = os.environ.get("EZTINKER_API_KEY"), os.environ.get("TINKER_API_KEY")
    if own:
        return own
    if is_named and hosted:
        return hosted
    if is_loopback(urlsplit(base_url).hostname or ""):
        # TINKER_API_KEY alone is usually the key of another service, so the local file goes before it.
        return read_api_key(local_data_dir()) or hosted or ""
    raise ConfigError(f"No key for {base_url} is set; set EZTINKER_API_KEY to the key of that server")


def _checked(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"The server's address must look like http://HOST:PORT, got {base_url!r}")
    return base_url
