"""The wheel that `make wheel` builds for Linux on x86-64: what it carries, and that it needs no compiler."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from eztinker.model.cpu_kernels.compiling import HEADERS, PREBUILT, SOURCES, prebuilt_name
from eztinker.model.device import kernels_text
from tests.instruction_sets import ALL_SETS, USABLE, has_compiler

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_compiler, reason="this machine has no C compiler"),
    pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="wheels are for x86-64 Linux"),
]
REPOSITORY = Path(__file__).parents[2]
FOLDER = f"eztinker/model/cpu_kernels/{PREBUILT}/"
SHORT_DECODE = """
import json, sys, torch
from pathlib import Path
import eztinker
from eztinker.model.decoder import Decoder
from eztinker.model.attention import PackedAttention
from eztinker.model.device import choose_dtype, kernels_text

cpu = torch.device("cpu")
found = {"package": eztinker.__file__}
for dtype in (torch.float32, torch.bfloat16):
    decoder = Decoder.load(Path(sys.argv[1]), dtype, cpu)
    cache, token, logits = decoder.new_cache(), torch.tensor([3, 5]), []
    with torch.inference_mode():
        attention = PackedAttention([4], cpu, keep_keys=True)
        decoder.hidden_states(torch.tensor([1, 2, 3, 4]), attention)
        for _ in token:
            cache.add_row(attention.block(0))
        for _ in range(5):
            hidden = decoder.next_hidden_states(token, cache)
            cache.advance(2)
            logits.append(decoder.logits(hidden))
            token = logits[-1].argmax(dim=-1)
    found[str(dtype)] = {"kernels": kernels_text(dtype, cpu), "logits": torch.stack(logits).numpy().tobytes().hex()}
mapped = {line.split()[-1] for line in open("/proc/self/maps")}
found["libraries"] = sorted(each for each in mapped if "float32-" in each or "bfloat16-" in each or "kernels-" in each)
print(json.dumps(found))
"""


def build(folder: Path, *, with_kernels: bool) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=REPOSITORY,
        env=os.environ | {"HATCH_BUILD_HOOK_ENABLE_CUSTOM": str(with_kernels).lower()},
        check=True,
    )
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"), with_kernels=True)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel in it, put there by pip, which checks the wheel's tag against this machine."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", "--target", folder, wheel], check=True)
    return folder


def decode(model: Path, **environment: str) -> dict[str, Any]:
    """Decode a few steps in both dtypes, in a process of its own, and give what they computed."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", SHORT_DECODE, str(model)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def test_it_carries_every_dtype_in_every_set_of_instructions_and_says_for_which_system(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        carried = {name.removeprefix(FOLDER) for name in archive.namelist() if name.startswith(FOLDER)}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        lines = archive.read(metadata).decode().splitlines()
    assert carried == {prebuilt_name(each, str(dtype).removeprefix("torch.")) for dtype, each in ALL_SETS}
    (tag,) = (line.removeprefix("Tag: ") for line in lines if line.startswith("Tag: "))
    assert tag.startswith("py3-none-manylinux_2_")
    assert tag.endswith("_x86_64")
    assert wheel.name.endswith(f"-{tag}.whl")
    assert "Root-Is-Purelib: false" in lines


def test_a_wheel_for_other_machines_carries_the_sources_alone(tmp_path: Path):
    wheel = build(tmp_path, with_kernels=False)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert not [name for name in names if name.endswith(".so")]
    assert {str(path.relative_to(REPOSITORY / "src")) for path in (*SOURCES, *HEADERS)} <= names


def test_its_libraries_ask_for_nothing_newer_than_the_tag_says(installed: Path, wheel: Path):
    minor = int(wheel.stem.split("manylinux_2_")[1].split("_")[0])
    for library in (installed / FOLDER).iterdir():
        dynamic = subprocess.run(["readelf", "--wide", "-d", "-V", library], capture_output=True, text=True, check=True)
        needed = {line.split("[")[1].rstrip("]") for line in dynamic.stdout.splitlines() if "(NEEDED)" in line}
        assert needed == {"libm.so.6", "libc.so.6"}
        versions = {word for word in dynamic.stdout.split() if word.startswith("GLIBC_")}
        assert versions
        assert all(int(version.split(".")[1]) <= minor for version in versions)


@pytest.mark.skipif(not USABLE, reason="this processor has no kernels of ours")
def test_a_machine_without_a_compiler_computes_the_same_bits(installed: Path, tiny_model_dir: Path, tmp_path: Path):
    here = decode(tiny_model_dir)
    (tmp_path / "no-programs").mkdir()
    (tmp_path / "cache").mkdir()
    there = decode(
        tiny_model_dir,
        PYTHONPATH=str(installed),
        PATH=str(tmp_path / "no-programs"),
        CC="",
        EZTINKER_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert Path(here["package"]).is_relative_to(REPOSITORY)
    assert Path(there["package"]).is_relative_to(installed)
    assert here["libraries"]
    assert all(Path(each).name.startswith("cpu_kernels-") for each in here["libraries"])
    assert there["libraries"]
    assert all(Path(each).parent == installed / FOLDER for each in there["libraries"])
    assert not list((tmp_path / "cache").iterdir())
    for dtype in (torch.float32, torch.bfloat16):
        assert there[str(dtype)] == here[str(dtype)]
        assert there[str(dtype)]["kernels"] == kernels_text(dtype, torch.device("cpu"))
