"""Weights of a network: fetched, read without executing pickled code, fitted and hashed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from captum_deconv.sources.fingerprints import recall
from captum_deconv.sources.names import WeightsError, check_weights


def hash_weights(model: nn.Module) -> str:
    """Hash a network's state: the same for the same weights, on any machine and device.

    Asked again of weights that nobody changed, it answers at once.

    Args:
        model: The network.

    Returns:
        SHA-256 over each entry's name, dtype, shape and bytes, in the order of the names.
    """
    state = {
        name: tensor
        for name, tensor in sorted(model.state_dict(keep_vars=True).items())
        if isinstance(tensor, Tensor)
    }

    def compute() -> str:
        digest = hashlib.sha256()
        for name, tensor in state.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    return recall(tuple(state), list(state.values()), compute)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fit a file of weights into a network, without executing pickled code.

    Args:
        model: The network, changed in place.
        path: A ``.safetensors`` file, or a state dict saved by ``torch.save``; one wrapped in a
            dictionary under ``state_dict`` or ``model`` is found too.

    Raises:
        WeightsError: If the file cannot be read, or does not fit: missing, unexpected and
            wrong-shape entries are counted and the first few named.
    """
    check_weights(str(path))
    state = _read_state_dict(Path(path))
    own = model.state_dict()
    # Old checkpoints lack this counter, which evaluation never reads; torch forgives it as well.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    misshapen = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of the wrong shape", misshapen),
        )
        if keys
    ]
    if problems:
        raise WeightsError(f"{path}: the weights do not fit this network: {'; '.join(problems)}")
    model.load_state_dict(state, strict=False)


@contextlib.contextmanager
def read_only_weights() -> Iterator[None]:
    """Make torchvision's builders read downloaded files without executing pickled code.

    The builders offer no argument for it; torch reads this variable at each ``torch.load``.

    Yields:
        Nothing.
    """
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def fetch_weights(name: str, url: str) -> Path:
    """Have a file of weights in torch's cache, downloading it where it is not there yet.

    Not left to torchvision's builders: here the reason and the place for the file can be told.

    Args:
        name: The network, for the message.
        url: Where its weights are; the file name ends in the first digits of its SHA-256.

    Returns:
        Where the file is.

    Raises:
        WeightsError: If the file cannot be fetched; the message says where it can be given.
    """
    filename = os.path.basename(urlparse(url).path)
    path = Path(torch.hub.get_dir()) / "checkpoints" / filename
    if path.exists():
        return path
    digest = re.search(r"-([0-9a-f]{8,})\.", filename)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(path), digest.group(1) if digest else None, progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the weights of {name} could not be fetched from {url} ({error}); give a file with "
            f"--weights FILE, put that file at {path}, or use --weights none"
        ) from error
    return path


def describe_unreadable(path: Path, error: Exception) -> str:
    """Say in one sentence why a file of weights could not be read.

    Args:
        path: The file.
        error: What its reader raised; torch's runs over many lines.

    Returns:
        The sentence.
    """
    reason = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
    return (
        f"{path}: not readable as safetensors or as a torch state dict without executing pickled "
        f"code ({reason})"
    )


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, tar, pickle and safetensors readers each raise their own
        raise WeightsError(describe_unreadable(path, error)) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path}: holds no state dict (a dictionary of tensors by name)")
    return cast("dict[str, Tensor]", content)
