"""Fixtures of the kernels' tests."""

from tests.kernel_fixtures import kernel_dtype, threads

__all__ = ["kernel_dtype", "threads"]
