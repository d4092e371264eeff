"""Number formats: which one a device runs well, and the contexts that go with it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from kdray.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """A resolved number format: `name` is fp32, bf16 or fp16, `device_type` is cpu or cuda."""

    name: str
    device_type: str

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which convolutions and matrix products run (weights stay float32)."""
        return DTYPES[self.name]

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Context in which forward passes run; does nothing for fp32."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaler; it passes everything through unless the format is fp16."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "fp16")


def cpu_has_bf16() -> bool:
    """True where the CPU has bf16 instructions (AVX512-BF16 or AMX); elsewhere bf16 is emulated and slower."""
    found = []
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        probe = getattr(torch.cpu, name, None)
        found.append(bool(probe()) if probe else False)
    return any(found)


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Turn `train.precision` into a format of this device; `auto` is bf16 where the device has it, else fp32.

    Raises:
        ConfigError: fp16 on a CPU, which has no fp16 training.
    """
    if name == "auto":
        native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
        name = "bf16" if native else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("fp16 cannot train on a CPU", where="train.precision", fix="Write auto, bf16 or fp32")
    return Precision(name, device.type)
