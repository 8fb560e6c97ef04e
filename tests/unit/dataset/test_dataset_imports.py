"""What importing the data sets costs."""

from __future__ import annotations

import subprocess
import sys


def test_using_the_math_data_sets_loads_no_heavy_library() -> None:
    program = (
        "import sys, eztinker.dataset as d\n"
        "assert not any(name.startswith('eztinker.dataset.') for name in sys.modules)\n"
        "data = d.ArithmeticDataset(max_samples=3)\n"
        "assert data.evaluate_answer('#### 7', '7')['strategy'] == 'math_verify'\n"
        "d.ShareGPTDataset, d.GSM8KDataset\n"
        "heavy = {'torch', 'transformers', 'math_verify', 'sympy', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_every_exported_name_is_there() -> None:
    import eztinker.dataset as dataset

    for name in dataset.__all__:
        assert getattr(dataset, name).__name__ == name
