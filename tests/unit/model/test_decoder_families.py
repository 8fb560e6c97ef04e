"""The families and ropes that are read from model files are those that are computed."""

from __future__ import annotations

from eztinker.model.rope import FREQUENCIES
from eztinker.model_files.decoder_config import FAMILIES
from eztinker.model_files.rope_config import ROPE_KINDS
from eztinker.types import KNOWN_MODEL_TYPES


def test_the_decoder_computes_exactly_the_families_that_catalogs_serve():
    assert set(FAMILIES) == set(KNOWN_MODEL_TYPES)


def test_the_decoder_computes_exactly_the_ropes_that_are_read():
    assert set(FREQUENCIES) == ROPE_KINDS
