"""What networks compute in while they learn: float32, or bfloat16 where the device has arithmetic for it.

Weights, what optimisers keep, sums over workers and losses have the digits that --dtype says, whatever products of
matrices are computed in (Micikevicius et al., "Mixed precision training", ICLR 2018); bfloat16 has float32's range, so
that losses need no scale.
"""

from typing import Literal

import torch

from framework.errors import InputError

Precision = Literal["float32", "bfloat16"]


def computing_in(precision: Precision, device: torch.device) -> torch.autocast:
    """A context in which linear maps and convolutions on `device` compute in that."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def require_precision(precision: Precision, device: torch.device, dtype: torch.dtype) -> None:
    """Raises InputError where a device has no arithmetic of bfloat16, or a run wants more digits than float32 has."""
    require_type(precision, dtype)
    if precision != "bfloat16":
        return
    on_cpu = device.type == "cpu"
    if not (torch.ops.mkldnn._is_mkldnn_bf16_supported() if on_cpu else _on_gpu()):
        raise InputError(f"--precision is bfloat16, which this {device.type} has no arithmetic for; take float32.")


def require_type(precision: Precision, dtype: torch.dtype) -> None:
    """Raises InputError where a run wants more digits than products of bfloat16 leave it."""
    if precision == "bfloat16" and dtype != torch.float32:
        raise InputError("--precision is bfloat16 and --dtype float64; expected float32 beside it.")


def _on_gpu() -> bool:
    """Whether this GPU itself computes in bfloat16: those that do not would do so by float32, and slowly."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
