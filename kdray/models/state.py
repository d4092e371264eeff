"""Read a state dict from any file of weights: safetensors or a torch checkpoint, local or in object storage.

A torch file is opened with `weights_only=True` and nothing else: a checkpoint can otherwise run code.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kdray.errors import ModelError, StoreError, nearest

NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "student", "teacher", "weights")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "net.", "student.", "teacher.")
# Inert containers that published checkpoints keep beside their weights (training options, a best accuracy).
SCALAR = np.float64(0).__reduce__()[0]  # how numpy pickles a number, under its name of today and of numpy 1
INERT: list[Any] = [
    argparse.Namespace,
    SCALAR,
    (SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]


@dataclass(frozen=True)
class StateFile:
    """Tensors by key, the file they came from and the sha256 of its bytes."""

    tensors: dict[str, Tensor]
    source: str
    sha256: str


def read_state(uri: str) -> StateFile:
    """Read the file at `uri` (a path, s3:// or gs://) and find the state dict in it.

    Raises:
        ModelError: no such file, damaged or cut short, of another kind, needing more than `weights_only`, or without
            weights; the message names the file and what to do.
        StoreError: object storage cannot be read.
    """
    data = _read_bytes(uri)
    return StateFile(_flatten(_parse(data, uri), uri), uri, hashlib.sha256(data).hexdigest())


def _read_bytes(uri: str) -> bytes:
    if "://" in uri:
        from kdray.store import read_uri  # the store knows object storage; nothing else here needs it

        return read_uri(uri)
    path = Path(uri).expanduser()
    if not path.is_file():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "is a folder" if path.is_dir() else f"does not exist{nearest(path.name, beside)}"
        raise ModelError(f"{uri} {what}", where="weights", fix="give a .safetensors or torch file, or an s3:// URI")
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{uri} cannot be read: {error.strerror}", where="weights") from error


def _parse(data: bytes, uri: str) -> Any:
    if data.startswith((b"PK\x03\x04", b"\x80\x02")):
        return _parse_torch(data, uri)
    if data.startswith(b"version https://git-lfs"):
        raise ModelError(f"{uri} is a Git LFS pointer, not the weights", where="weights", fix="git lfs pull fetches it")
    if data[8:9] != b"{":
        kind = "empty" if not data else "neither safetensors nor a torch checkpoint"
        raise ModelError(f"{uri} is {kind}", where="weights", fix="save the weights with safetensors.torch.save_file")
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _damaged(uri, error) from error


def _parse_torch(data: bytes, uri: str) -> Any:
    try:
        with torch.serialization.safe_globals(INERT):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error) or "weights_only" not in str(error).lower():
            raise _damaged(uri, error) from error
        raise ModelError(
            f"{uri} holds more than weights (it would run code when opened)",
            where="weights",
            fix='where you trust it, convert it once: python -c "import torch, safetensors.torch as s; '
            f"c = torch.load('{uri}', weights_only=False, map_location='cpu'); "
            "m = c.get('model', c.get('state_dict', c)) if isinstance(c, dict) else c.state_dict(); "
            "s.save_file({k: v.contiguous() for k, v in m.items()}, 'weights.safetensors')\"",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise _damaged(uri, error) from error


def _damaged(uri: str, error: Exception) -> ModelError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelError(f"{uri} is damaged or cut short ({reason})", where="weights", fix="fetch or write it again")


def _flatten(found: Any, uri: str) -> dict[str, Tensor]:
    """Unwrap nested checkpoints down to a mapping of tensors."""
    if isinstance(found, Mapping):
        tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
        for key in NESTS:
            if isinstance(found.get(key), Mapping):
                return _flatten(found[key], uri)
        if tensors:
            return tensors
        keys = ", ".join(map(str, list(found)[:8])) or "nothing"
        raise ModelError(f"{uri} holds no weights, only {keys}", where="weights", fix="save the model's state_dict()")
    raise ModelError(
        f"{uri} holds {type(found).__name__}, not a state dict", where="weights", fix="save the model's state_dict()"
    )


def strip_prefixes(tensors: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Take off wrappers' prefixes (DDP, compile, a Net) that every key carries and the wanted keys do not."""
    state = dict(tensors)
    while state and not (set(state) & wanted):
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Sha256 over keys, types, shapes and values: names weights that came from no single file."""
    seen = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        seen.update(f"{key} {value.dtype} {tuple(value.shape)};".encode())
        seen.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()
