"""What a measurement was made on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def describe_machine(device: torch.device) -> dict[str, object]:
    """Return the device's name, the processor and the versions, for a result's record."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "captum", "captum-deconv")},
    }


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def read_kilobytes(what: str) -> int:
    """Return a line of what Linux says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])


def reset_peak() -> None:
    """Let the peak that Linux tells of this process, ``VmHWM``, begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
