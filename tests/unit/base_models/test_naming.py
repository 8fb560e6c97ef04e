"""What the name that another program gives a base model shows about the ones served here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from eztinker.base_models.catalog import Catalog
from eztinker.base_models.naming import Sameness, sameness
from tests.servers import SCRIPTED_BASE_MODEL

SAME, UNKNOWN, DIFFERENT = Sameness.SAME, Sameness.UNKNOWN, Sameness.DIFFERENT
CACHE = "/home/ada/.cache/huggingface/hub/models--Qwen--Qwen2-0.5B/snapshots/91d2aff3f957f99e"

DIRECTORIES = {
    "Qwen/Qwen2-0.5B": "/models/base",
    "Qwen/Qwen2-0.5B-Instruct": "/models/chat",
    "Qwen/Qwen3-8B": "/models/small",  # an official name that recipes know, for another model
    "again": "/models/base",
    "own": "/models/own",
    "cached": "/hub/models--org--model/snapshots/0123",
}
CATALOG = Catalog(
    msgspec.structs.replace(SCRIPTED_BASE_MODEL, name=name, directory=Path(directory))
    for name, directory in DIRECTORIES.items()
)


@pytest.mark.parametrize(
    ("name", "served", "expected"),
    [
        ("Qwen/Qwen2-0.5B", "Qwen/Qwen2-0.5B", SAME),
        ("qwen/qwen2-0.5b", "Qwen/Qwen2-0.5B", SAME),
        ("Qwen/Qwen2-0.5B:peft:131072", "Qwen/Qwen2-0.5B", SAME),
        (CACHE, "Qwen/Qwen2-0.5B", SAME),
        ("/models/base", "Qwen/Qwen2-0.5B", SAME),
        ("again", "Qwen/Qwen2-0.5B", SAME),
        ("Qwen/Qwen2-0.5B", "again", SAME),
        ("/data/qwen2-0.5b/", "Qwen/Qwen2-0.5B", SAME),
        (r"C:\models\Qwen2-0.5B", "Qwen/Qwen2-0.5B", SAME),
        ("Qwen2-0.5B", "Qwen/Qwen2-0.5B", SAME),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", SAME),
        ("/models/small", "Qwen/Qwen3-8B", SAME),
        ("org/model", "cached", SAME),
        # names that show nothing
        ("/data/base", "Qwen/Qwen2-0.5B", UNKNOWN),
        ("./base", "Qwen/Qwen2-0.5B", UNKNOWN),
        ("../models/base", "Qwen/Qwen2-0.5B", UNKNOWN),
        ("https://hub.example/model", "Qwen/Qwen2-0.5B", UNKNOWN),
        ("mirror/Qwen2-0.5B", "Qwen/Qwen2-0.5B", UNKNOWN),
        ("HuggingFaceTB/SmolLM2-135M", "own", UNKNOWN),
        ("\0", "Qwen/Qwen2-0.5B", UNKNOWN),
        # names of something else
        ("Qwen/Qwen2-0.5B-Instruct", "Qwen/Qwen2-0.5B", DIFFERENT),
        ("/models/chat", "Qwen/Qwen2-0.5B", DIFFERENT),
        ("own", "Qwen/Qwen2-0.5B", DIFFERENT),
        ("Qwen/Qwen2-0.5B", "own", DIFFERENT),
        ("meta-llama/Llama-3.2-1B", "Qwen/Qwen2-0.5B", DIFFERENT),
        (CACHE, "Qwen/Qwen2-0.5B-Instruct", DIFFERENT),
        ("org/other", "cached", DIFFERENT),
    ],
)
def test_a_name_is_held_against_every_name_of_a_served_model(name: str, served: str, expected: Sameness):
    assert sameness(name, CATALOG.get(served), CATALOG) == expected
