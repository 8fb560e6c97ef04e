"""The trained adapter as files: a PEFT folder on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eztinker.errors import DataDamaged, ServerUnreachable
from eztinker.rl.connection import rest_client, sdk_errors

if TYPE_CHECKING:
    import tinker


def download_adapter(client: tinker.TrainingClient, name: str, directory: Path) -> Path:
    """Save the adapter on the server as `name` and fetch it into `directory`, which peft and vLLM load.

    Raises:
        DataDamaged: the server names a file outside the directory.
    """
    with sdk_errors():
        path = client.save_weights_external(name).result().path
        urls = rest_client().get_external_weights_urls(path).result().urls
    for file_name, url in urls.items():
        destination = (directory / file_name).resolve()
        if not destination.is_relative_to(directory.resolve()):
            raise DataDamaged(f"The server names an adapter file outside the adapter's directory: {file_name}")
        _fetch(url, destination)
    return directory


def _fetch(url: str, destination: Path) -> None:
    import httpx  # what the SDK itself is built on

    destination.parent.mkdir(parents=True, exist_ok=True)
    aside = destination.with_name(f".{destination.name}.part")
    try:
        with httpx.stream("GET", url, timeout=60, follow_redirects=True) as response, aside.open("wb") as file:
            response.raise_for_status()
            for piece in response.iter_bytes():
                file.write(piece)
    except httpx.HTTPError as error:
        raise ServerUnreachable(f"The adapter file {destination.name} could not be fetched: {error}") from error
    aside.replace(destination)
