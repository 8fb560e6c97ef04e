"""EZTinker's own kernels for CPUs: C sources, how they are compiled, and the operators they become."""

from eztinker.model.cpu_kernels.building import cpu_kernels, kernel_failures, kernels_name, processor_flags
from eztinker.model.cpu_kernels.decoding import AdaptedRows, DecodeKernel, LayerWeights, LowRanks
from eztinker.model.cpu_kernels.operators import CpuKernels, PackedWeight

__all__ = [
    "AdaptedRows",
    "CpuKernels",
    "DecodeKernel",
    "LayerWeights",
    "LowRanks",
    "PackedWeight",
    "cpu_kernels",
    "kernel_failures",
    "kernels_name",
    "processor_flags",
]
