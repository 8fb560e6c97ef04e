"""Resolves pyproject.toml into lock.txt (newest), lowest.txt (oldest) and src/eztinker/tested_versions.txt.

Run by `make lock` with an interpreter that has uv and packaging. uv is told to read no configuration, so that only
pyproject.toml, torch.txt and the package index decide.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from uv import find_uv_bin

HERE = Path(__file__).parent
ROOT = HERE.parent
NOT_LOCKED = re.compile(r"torch$|triton$|nvidia-|cuda-")
"""torch is pinned in torch.txt; the others come with its CUDA build alone."""
SUPPORTED = [
    {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": platform, "extra": ""}
    for python, platform in itertools.product(("3.11", "3.12", "3.13"), ("linux", "darwin"))
]


def main() -> None:
    lock = resolve("highest", group="dev")
    lowest = resolve("lowest-direct", group="test")
    (HERE / "lock.txt").write_text(lock, encoding="utf-8")
    (HERE / "lowest.txt").write_text(lowest, encoding="utf-8")
    pins = f"{lock}\n{(HERE / 'torch.txt').read_text(encoding='utf-8')}"
    (ROOT / "src" / "eztinker" / "tested_versions.txt").write_text(newest_tested(pins), encoding="utf-8")


def resolve(resolution: str, *, group: str) -> str:
    """A requirements file with hashes for everything, for every supported Python and platform."""
    command = [find_uv_bin(), "pip", "compile", "--no-config", "--quiet", "--resolution", resolution]
    # One version of each package on every Python, so that what was tested on one holds on the others.
    command += ["--universal", "--python-version", "3.11", "--fork-strategy", "fewest"]
    command += ["--generate-hashes", "--no-emit-index-url", "--custom-compile-command", "make lock"]
    command += ["--constraints", "requirements/torch.txt", "--group", group, "pyproject.toml"]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    head, *blocks = re.split(r"^(?=[a-z])", text.partition("\n# The following packages")[0], flags=re.MULTILINE)
    return head + "".join(block for block in blocks if is_locked(requirement_of(block)))


def is_locked(requirement: Requirement) -> bool:
    if NOT_LOCKED.match(requirement.name):
        return False
    marker = requirement.marker
    return marker is None or any(marker.evaluate(environment) for environment in SUPPORTED)


def requirement_of(block: str) -> Requirement:
    """The requirement that a block of the file begins with; its hashes and comments follow."""
    return Requirement(block.partition("\n")[0].rstrip(" \\"))


def newest_tested(pins: str) -> str:
    """The locked version of each package that pyproject.toml names as a dependency of the product or its recipes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["recipes"]
    direct = {canonicalize_name(Requirement(line).name) for line in lines}
    found = sorted(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", pins, flags=re.MULTILINE), key=lambda pin: Version(pin[1]))
    newest = {name: version for name, version in found if name in direct}
    return "".join(f"{name}=={newest[name]}\n" for name in sorted(newest))


if __name__ == "__main__":
    main()
