"""Models of the Hugging Face hub: from its local cache first, then by download."""

from __future__ import annotations

from pathlib import Path

from eztinker.errors import DataNotFound

_WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja"]
_UNWANTED = ["*/*"]
"""Files not to fetch: subfolders, which hold the weights in other formats."""


def cached_snapshot(repo_id: str) -> Path | None:
    """The newest snapshot of `repo_id` in the hub cache, which may lack files; None if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(repo_id, local_files_only=True, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
        )
    except (FileNotFoundError, HFValidationError):
        return None


def download_snapshot(repo_id: str) -> Path:
    """Fetch configs, tokenizer and safetensors of `repo_id` into the hub cache, no other kind of file.

    Raises:
        DataNotFound: there is no such model, no access to it, or no connection to the hub.
    """
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except (OSError, HTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataNotFound(
            f"The base model {repo_id!r} is no directory and could not be had from the hub ({reason}); "
            f"check the name, or fetch it elsewhere and serve it with --base-model {repo_id}=DIRECTORY"
        ) from error
