"""Fixtures for tests of the command line."""

from inspect import signature

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from captum_deconv.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    Image.fromarray(255 - pixels[:, :35]).save(folder / "two.jpg")
    (folder / "text.png").write_text("no image")
    (folder / "half.png").write_bytes((folder / "one.png").read_bytes()[:900])
    torch.save({"a": torch.zeros(1)}, folder / "misfit.pt")
    return folder


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the command line in a folder of its own; the networks are those of cli_networks.py."""
    monkeypatch.syspath_prepend(tmp_path)  # puts sys.path back at the end
    monkeypatch.chdir(tmp_path)

    # Before click 8.2 the two streams were mixed unless one asked.
    apart = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}

    def run(*words):
        return CliRunner(**apart).invoke(app, [str(word) for word in words])

    return run
