"""The application's own list of routes, and which of them take no key."""

from __future__ import annotations

from pathlib import Path

from fastapi import Depends
from fastapi.routing import APIRoute

from eztinker.api.app import create_app
from eztinker.api.auth import API_PREFIX, authenticated
from eztinker.base_models.catalog import Catalog
from eztinker.settings.server_config import ServerConfig

OPEN = {
    "/healthz",
    "/readyz",
    f"{API_PREFIX}/healthz",
    f"{API_PREFIX}/archives/{{checkpoint_id}}",
    f"{API_PREFIX}/exports/{{checkpoint_id}}/{{file_name}}",
    f"{API_PREFIX}/traces/{{session_id}}",
    f"{API_PREFIX}/uploads/{{upload_id}}/{{file_name}}",
    "/{repository:path}/resolve/{revision}/{file_name}",
    "/api/models/{rest:path}",
}
"""Health, files behind signed links, and tokenizers."""


def test_every_route_stands_in_the_list_itself_and_asks_for_a_key(tmp_path: Path):
    """A router in the list would be matched twice for each request, and again at every level below it."""
    routes = create_app(ServerConfig.model_validate({"data_dir": tmp_path}), Catalog([])).routes
    assert all(isinstance(route, APIRoute) for route in routes)
    without_key = {
        route.path
        for route in routes
        if isinstance(route, APIRoute) and Depends(authenticated) not in route.dependencies
    }
    assert without_key == OPEN
