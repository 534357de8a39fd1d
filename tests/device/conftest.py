"""The device that the checks of this folder run on, in a process of their own: test_device.py."""

import os
import sys

import pytest
import simulated
import torch
from agreement import assert_same

DEVICE = os.environ.get("CAPTUM_DECONV_DEVICE", "")

if DEVICE == simulated.NAME:
    simulated.install()


def pytest_unconfigure(config):
    """End the process before torch asks a Python that is gone for the simulated device."""
    if DEVICE == simulated.NAME:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(config.stash[STATUS]))


STATUS = pytest.StashKey()


def pytest_sessionfinish(session, exitstatus):
    session.config.stash[STATUS] = exitstatus


@pytest.fixture
def device():
    """Return the device's name."""
    if not DEVICE:
        pytest.skip("run by test_device.py, which names a device")
    return DEVICE


@pytest.fixture
def assert_like_cpu(device):
    """Return what holds a result of the device against the CPU's.

    Bit for bit where the device computes on the CPU; else to what the order of a sum may change.
    """

    def compare(found, expected, what=""):
        assert type(found) is type(expected), what
        if isinstance(expected, dict):
            assert found.keys() == expected.keys(), what
            for key in expected:
                compare(found[key], expected[key], f"{what} {key}")
        elif isinstance(expected, (tuple, list)):
            assert len(found) == len(expected), what
            for index, pair in enumerate(zip(found, expected, strict=True)):
                compare(*pair, f"{what}[{index}]")
        elif isinstance(expected, torch.Tensor):
            assert found.device.type == torch.device(device).type, what
            if device == simulated.NAME:
                assert_same(found.cpu(), expected, what)
            else:
                torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
        else:
            assert found == expected, what

    return compare
