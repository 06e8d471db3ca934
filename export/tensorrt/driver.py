"""What this machine has of NVIDIA's: driver library, GPUs, wheels. Nothing here loads TensorRT.

A TensorRT runtime without a driver ends the whole process when it is used, so every decision is made from the driver's
own library (CUDA Driver API, chapters *Initialization*, *Version Management* and *Device Management*).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from dataclasses import dataclass
from importlib import metadata, util

from fptk.export.tensorrt.product import Product

_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    compute_capability: str
    """For example ``8.6``."""
    memory: int
    """Bytes."""


@dataclass(frozen=True)
class CudaHost:
    """The driver and its GPUs; ``reason`` says in one line why there is none that can be used."""

    driver: str = ""
    """Highest CUDA version that the driver supports, e.g. ``13.0``; empty without a driver."""
    gpus: tuple[Gpu, ...] = ()
    reason: str = ""
    remedy: str = ""


def driver_library() -> str | None:
    """File name of the CUDA driver library as the loader finds it; ``None`` where there is none.

    In a container the library may lie on the loader's path without being in its cache, where ``find_library`` looks.
    """
    if sys.platform == "win32":
        return ctypes.util.find_library("nvcuda")
    return ctypes.util.find_library("cuda") or ("libcuda.so.1" if _loads("libcuda.so.1") else None)


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def cuda_host() -> CudaHost:
    """Ask the driver for its version and GPUs. Creates no CUDA context and never raises."""
    name = driver_library()
    if name is None:
        return CudaHost(
            reason="no NVIDIA driver (libcuda is not installed)",
            remedy="install the NVIDIA driver; in a container start it with --gpus all",
        )
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        return CudaHost(
            reason=f"the NVIDIA driver library {name} does not load: {error}", remedy="reinstall the driver"
        )
    status = int(library.cuInit(0))
    if status:
        return CudaHost(
            reason=f"the NVIDIA driver library {name} does not start (CUDA error {status})",
            remedy="see whether nvidia-smi lists a GPU; in a container start it with --gpus all",
        )
    return _ask(library)


def _ask(library: ctypes.CDLL) -> CudaHost:
    version = ctypes.c_int()
    count = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    library.cuDeviceGetCount(ctypes.byref(count))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    gpus = tuple(_gpu(library, index) for index in range(count.value))
    if not gpus:
        return CudaHost(driver, reason="the NVIDIA driver sees no GPU", remedy="check CUDA_VISIBLE_DEVICES")
    return CudaHost(driver, gpus)


def _gpu(library: ctypes.CDLL, index: int) -> Gpu:
    device = ctypes.c_int()
    library.cuDeviceGet(ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGetName(name, len(name), device)
    memory = ctypes.c_size_t()
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    parts = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        value = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(value.value)
    return Gpu(name.value.decode(errors="replace"), f"{parts[0]}.{parts[1]}", memory.value)


def wheel_version(product: Product) -> str | None:
    """Version of the product's Python package, read from its metadata; ``None`` where it is not installed.

    The module is looked for but not imported: on a Jetson it comes from the system without a wheel of this name.
    """
    if util.find_spec(product.module) is None:
        return None
    for distribution in (product.module, f"{product.module}-cu13", f"{product.module}-cu12"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def package_version(name: str) -> str | None:
    """Version of the distribution ``name``, ``None`` where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_too_old(version: str, minimum: tuple[int, int]) -> bool:
    """Whether ``version`` (``major.minor…``) is below ``minimum``; a version that is no number is taken on trust."""
    parts = version.split(".")[:2]
    if len(parts) < 2 or not all(part.isdigit() for part in parts):
        return False
    return (int(parts[0]), int(parts[1])) < minimum
