"""Shell completion of runs, checkpoints, models and keys; it offers nothing if no server answers at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, MutableMapping

from eztinker.errors import EZTinkerError
from eztinker.rest_client import SCHEME, RestClient, client_with_timeout
from eztinker.settings.data_dir import local_data_dir

_TIMEOUT_SECONDS = 1.0
_BROKEN = "tinker : //"
"""Start of a path as bash passes it: it splits words at colons, and takes back only the part after the last colon."""
_SCHEME_IS_THERE = "_EZTINKER_SCHEME_IS_THERE"


def rejoin_words(environ: MutableMapping[str, str]) -> None:
    """Rejoin paths that bash has split, before the command line is read from its variables."""
    words = environ.get("COMP_WORDS", "")
    if environ.get("_EZTINKER_COMPLETE") == "complete_bash" and _BROKEN in words:
        environ["COMP_CWORD"] = str(int(environ["COMP_CWORD"]) - 2 * words.count(_BROKEN))
        environ["COMP_WORDS"] = words.replace(_BROKEN, SCHEME)
        environ[_SCHEME_IS_THERE] = "1"


def runs(incomplete: str) -> list[str]:
    """Complete ids and names of runs."""
    return _matching(incomplete, _ask(_run_names))


def checkpoints(incomplete: str) -> list[str]:
    paths = _matching(incomplete, _ask(_paths))
    return [path.partition(":")[2] for path in paths] if _SCHEME_IS_THERE in os.environ else paths


def runs_and_checkpoints(incomplete: str) -> list[str]:
    """Complete paths of checkpoints if one is begun, else runs."""
    return checkpoints(incomplete) if incomplete.startswith(SCHEME) else runs(incomplete)


def models(incomplete: str) -> list[str]:
    return _matching(incomplete, _ask(_model_names))


def anything_to_sample(incomplete: str) -> list[str]:
    """Complete paths of checkpoints if one is begun, else models and runs."""
    if incomplete.startswith(SCHEME):
        return checkpoints(incomplete)
    return _matching(incomplete, _ask(lambda client: [*_model_names(client), *_run_names(client)]))


def keys(incomplete: str) -> list[str]:
    """Complete numbers of valid keys and names of their owners."""
    from eztinker.keys.issued_keys import issued_keys

    try:
        valid = [key for key in issued_keys(local_data_dir()) if key.revoked_at is None]
    except (EZTinkerError, OSError):
        return []
    return _matching(incomplete, [*(str(key.key_id) for key in valid), *(key.owner for key in valid)])


def _run_names(client: RestClient) -> Iterator[str]:
    for run in client.runs():
        yield run["run_id"]
        if run["name"]:
            yield run["name"]


def _model_names(client: RestClient) -> Iterator[str]:
    return (model["model_name"] for model in client.models())


def _paths(client: RestClient) -> Iterator[str]:
    return (checkpoint["path"] for checkpoint in client.checkpoints())


def _ask(question: Callable[[RestClient], Iterable[str]]) -> list[str]:
    """The server's answer; empty on any error, which a completion must not show."""
    try:
        with client_with_timeout(_TIMEOUT_SECONDS) as client:
            return list(question(client))
    except EZTinkerError:
        return []


def _matching(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word.startswith(incomplete)]
