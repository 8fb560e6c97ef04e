from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from rich.console import Console

from eztinker.base_models.catalog import EMBEDDED_NAME, HUB_DEFAULT_NAME, load_catalog
from eztinker.errors import ConfigError, DataDamaged, DataNotFound, ModelNotServed


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache, and no way to the hub."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def put_in_hub_cache(hub_cache: Path, repo_id: str, model_dir: Path) -> Path:
    """`model_dir` as a finished download of `repo_id`."""
    repo = hub_cache / f"models--{repo_id.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("1234abcd")
    return Path(shutil.copytree(model_dir, repo / "snapshots" / "1234abcd"))


def test_a_name_with_a_directory_is_served_under_that_name(tiny_model_dir):
    catalog = load_catalog([f"me/tiny={tiny_model_dir}"])
    assert catalog.names == ["me/tiny"]
    assert catalog.get("me/tiny").directory == tiny_model_dir


def test_a_directory_alone_is_served_under_its_last_part(tiny_model_dir, monkeypatch):
    monkeypatch.chdir(tiny_model_dir.parent)
    model = load_catalog([f"./{tiny_model_dir.name}"]).get(tiny_model_dir.name)
    assert model.directory == tiny_model_dir


def test_a_hub_id_is_taken_from_the_cache(tiny_model_dir, hub_cache):
    snapshot = put_in_hub_cache(hub_cache, "org/tiny", tiny_model_dir)
    assert load_catalog(["org/tiny"]).get("org/tiny").directory == snapshot


def test_order_is_the_operators(tiny_model_dir):
    catalog = load_catalog([f"{name}={tiny_model_dir}" for name in "cab"])
    assert [model.name for model in catalog] == catalog.names == ["c", "a", "b"]
    assert len(catalog) == 3


def test_by_default_the_embedded_model_is_served_alone_where_the_hub_cache_is_empty(embedded_model_dir):
    catalog = load_catalog([])
    assert catalog.names == [EMBEDDED_NAME]
    model = catalog.get(EMBEDDED_NAME)
    assert (model.directory, model.model_type, model.eos_token_ids) == (embedded_model_dir, "llama", (2,))
    assert (model.vocab_size, model.context_length) == (49152, 8192)


def test_by_default_the_hub_model_is_served_too_where_the_cache_has_all_of_it(
    embedded_model_dir, tiny_model_dir, hub_cache
):
    snapshot = put_in_hub_cache(hub_cache, HUB_DEFAULT_NAME, tiny_model_dir)
    assert load_catalog([]).names == [EMBEDDED_NAME, HUB_DEFAULT_NAME]
    (snapshot / "model.safetensors").unlink()
    assert load_catalog([]).names == [EMBEDDED_NAME]


def cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def test_by_default_a_damaged_model_in_the_hub_cache_is_left_out_and_told(
    embedded_model_dir, tiny_model_dir, hub_cache, capsys
):
    cut_off(put_in_hub_cache(hub_cache, HUB_DEFAULT_NAME, tiny_model_dir))
    assert load_catalog([], Console(stderr=True, soft_wrap=True)).names == [EMBEDDED_NAME]
    assert (
        "is not served. model.safetensors of base model 'Qwen/Qwen2-0.5B-Instruct' is damaged"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("spec", ["a={0}", "{0}", "org/tiny"])
def test_a_damaged_model_is_refused_by_whatever_way_it_is_named(tiny_model_dir, tmp_path, hub_cache, spec):
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "tiny"))
    cut_off(folder)
    put_in_hub_cache(hub_cache, "org/tiny", folder)
    with pytest.raises(DataDamaged, match=r"model\.safetensors of base model '(a|tiny|org/tiny)' is damaged"):
        load_catalog([spec.format(folder)])


def test_the_embedded_model_can_be_named(embedded_model_dir):
    assert load_catalog([EMBEDDED_NAME]).get(EMBEDDED_NAME).directory == embedded_model_dir


def test_a_variant_suffix_of_the_hosted_service_means_the_same_model(tiny_model_dir):
    catalog = load_catalog([f"me/tiny={tiny_model_dir}"])
    assert catalog.get("me/tiny:peft:131072") is catalog.get("me/tiny")


def test_an_unserved_name_gets_the_list(tiny_model_dir):
    catalog = load_catalog([f"one={tiny_model_dir}", f"two={tiny_model_dir}"])
    with pytest.raises(ModelNotServed, match="'three:x' is not served here; this server has one, two"):
        catalog.get("three:x")


def test_two_models_of_one_name_are_refused(tiny_model_dir):
    with pytest.raises(ConfigError, match="Two base models are named 'a'"):
        load_catalog([f"a={tiny_model_dir}", f"a={tiny_model_dir}"])


@pytest.mark.parametrize("spec", ["", "=", "name=", "=/tmp"])
def test_a_malformed_spec_is_refused(spec):
    with pytest.raises(ConfigError, match="written NAME or NAME=DIRECTORY"):
        load_catalog([spec])


def test_a_missing_directory_is_named():
    with pytest.raises(DataNotFound, match="The directory /nowhere of base model 'a' does not exist"):
        load_catalog(["a=/nowhere"])


@pytest.mark.parametrize("name", ["org/absent", "./no/such/directory"])
def test_a_model_out_of_reach_gets_one_sentence_with_the_way_out(name):
    with pytest.raises(
        DataNotFound, match=f"{name}'.*could not be had from the hub.*--base-model {name}=DIR"
    ) as caught:
        load_catalog([name])
    assert "\n" not in caught.value.message


def test_loading_a_catalog_imports_neither_torch_nor_transformers(tiny_model_dir):
    code = (
        "import sys; from eztinker.base_models.catalog import load_catalog; load_catalog(sys.argv[1:]);"
        "print({'torch', 'transformers', 'tinker'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code, f"a={tiny_model_dir}"], capture_output=True, text=True)
    assert ran.stdout == "set()\n", ran.stderr
