"""The official SDK's clients for the server that `client_settings` names, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from eztinker.errors import EZTinkerError, InvalidInput, NotFound, ServerError, ServerUnreachable, UserError
from eztinker.rl.interrupts import import_sdk
from eztinker.settings.client_settings import ClientSettings, bypass_proxies, require_server

if TYPE_CHECKING:
    import tinker


def service_client() -> tinker.ServiceClient:
    """The SDK's client for the server; one session per process and server.

    Raises:
        ServerUnreachable: no server answers.
    """
    return _service_client(_reachable_server())


def rest_client() -> tinker.RestClient:
    """The SDK's client for listings and downloads."""
    settings = _reachable_server()
    import_sdk()

    import tinker  # after the check: it takes seconds, and whoever forgot the server need not wait

    with sdk_errors():
        return tinker.RestClient(base_url=settings.base_url, api_key=settings.api_key)


def served_models() -> list[str]:
    """The base models that can be trained, in the server's order."""
    client = rest_client()
    with sdk_errors():
        offer = client.get_server_capabilities().result().supported_models
    return [model.model_name for model in offer if model.model_name]


def require_served(base_model: str) -> None:
    """Refuse a base model that the server does not serve.

    Raises:
        NotFound: it does not; the message has the command that starts a server which does.
    """
    models = served_models()
    if base_model.partition(":")[0] not in models:
        raise not_served(base_model, models)


def not_served(base_model: str, served: Sequence[str]) -> NotFound:
    """The error for a base model that is not among those served, with the command that serves it."""
    offer = ", ".join(served) or "no model"
    start = f"eztinker server --base-model {base_model}"
    return NotFound(f"The server does not serve {base_model}; it serves {offer}. Start it with: {start}")


def _reachable_server() -> ClientSettings:
    settings = require_server()
    bypass_proxies(settings.base_url)
    return settings


@lru_cache(maxsize=4)
def _service_client(settings: ClientSettings) -> tinker.ServiceClient:
    import_sdk()

    import tinker

    with sdk_errors():
        return tinker.ServiceClient(base_url=settings.base_url, api_key=settings.api_key)


@contextmanager
def sdk_errors() -> Iterator[None]:
    """Turn errors of the SDK inside the block into ours, in the server's own words."""
    import tinker

    try:
        yield
    except tinker.APIConnectionError as error:
        raise ServerUnreachable(
            f"The server stopped answering ({error.message.rstrip('.')}); start it again with: eztinker server"
        ) from error
    except tinker.APIStatusError as error:
        raise _refusal(error) from error
    except tinker.RequestFailedError as error:
        raise _failure(error) from error
    except tinker.TinkerError as error:
        raise ServerError(str(error)) from error


def _refusal(error: tinker.APIStatusError) -> EZTinkerError:
    try:
        message = str(error.response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = error.message
    if error.status_code == 404:
        return NotFound(message)
    return InvalidInput(message) if error.status_code in (400, 422) else ServerError(message)


def _failure(error: tinker.RequestFailedError) -> EZTinkerError:
    """The error of an operation that failed, in the server's sentence without what the SDK wraps around it."""
    from tinker.types import RequestErrorCategory

    message = error.message.removeprefix("Request failed: ").partition(" for self.request_id=")[0]
    return UserError(message) if error.category == RequestErrorCategory.User else ServerError(message)
