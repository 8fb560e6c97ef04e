"""The shapes that are read from model files."""

from __future__ import annotations

from eztinker.model.config import FAMILIES
from eztinker.types import KNOWN_MODEL_TYPES


def test_the_decoder_computes_exactly_the_families_that_catalogs_serve():
    assert set(FAMILIES) == set(KNOWN_MODEL_TYPES)
