"""Nothing in the package can run code from a file it reads: no pickle in any of its disguises."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import eztinker

FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "shelve", "joblib", "marshal"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "eval", "exec", "os.system"}
FORBIDDEN_FLAGS = {"allow_pickle", "trust_remote_code", "shell"}


def violations(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield f"from {node.module}"
        elif isinstance(node, ast.Call):
            yield from _violations_of_call(node)


def _violations_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    if name in FORBIDDEN_CALLS:
        yield f"{name}()"
    for keyword in call.keywords:
        refused = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in FORBIDDEN_FLAGS and not refused:
            yield f"{name}({keyword.arg}=...)"


def test_the_package_reads_data_never_code():
    found = [
        f"{path}: {violation}"
        for path in sorted(Path(eztinker.__file__).parent.rglob("*.py"))
        for violation in violations(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=flag)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_a_violation_is_found(line: str):
    assert len(list(violations(ast.parse(line)))) == 1
