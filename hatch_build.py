"""Put compiled CPU kernels into a wheel for Linux on x86-64.

`make wheel` asks for it (HATCH_BUILD_HOOK_ENABLE_CUSTOM=true). Any other build gives a wheel for every platform, whose
kernels are compiled at first use.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = "eztinker/model/cpu_kernels"
_GLIBC = re.compile(rb"\0GLIBC_2\.(\d+)")
"""A version of the C library that a library's symbols ask for, as its table of strings has it."""


class KernelHook(BuildHookInterface):
    """Compiles every dtype in every set of instructions; one that fails fails the build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # whose sources change
            return
        if (platform.system(), platform.machine(), platform.libc_ver()[0]) != ("Linux", "x86_64", "glibc"):
            raise RuntimeError("Kernels are compiled into wheels on Linux on x86-64 with glibc alone")
        compiling = _load_compiling(Path(self.root) / "src" / KERNELS / "compiling.py")
        self._folder = tempfile.TemporaryDirectory(prefix="eztinker-kernels-")
        wanted = [(each, dtype) for dtype, sets in compiling.INSTRUCTION_SETS.items() for each in sets]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            folder = Path(self._folder.name)
            libraries = list(pool.map(lambda one: compiling.compile_for_wheel(*one, folder), wanted))
        for library in libraries:
            build_data["force_include"][str(library)] = f"{KERNELS}/{compiling.PREBUILT}/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_{_oldest_glibc(libraries)}_x86_64"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()


def _load_compiling(path: Path) -> ModuleType:
    """The module that compiles kernels, without the package around it, which imports torch."""
    spec = importlib.util.spec_from_file_location("eztinker_compiling", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _oldest_glibc(libraries: list[Path]) -> int:
    """The minor version of the oldest glibc 2 that has every symbol the libraries ask for."""
    return max(int(minor) for library in libraries for minor in _GLIBC.findall(library.read_bytes()))
