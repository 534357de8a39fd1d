"""README's examples where nothing but the wheel is installed: ``readme_program.py README``.

It runs in an empty folder, in an environment of its own, and no network is needed: where an example
names a photograph one is drawn, and where it names a network of torchvision's, random weights stand
where the trained ones would be downloaded to. Each command runs as it is printed there, but for the
options below, which make it shorter. What cannot be run is named, with the reason.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from fences import read_commands, read_fences
from PIL import Image

import captum_deconv

NOT_RUN = {"timm/resnet26d": "needs the extra `timm`, and weights that a hub hands out"}
SHORTER = {
    "atlas": ("--channels", "1"),
    "occlude": ("--stride", "35"),
    "invariance": ("--steps", "3"),
}


def draw_photographs() -> None:
    """Draw what the examples call photographs, and the boxes on two of them."""
    Path("photographs").mkdir()
    names = ["cat", "dog", *(f"photographs/{number}" for number in range(4))]
    for seed, name in enumerate(names):
        coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(f"{name}.jpg")
    rows = [
        f"{name}.jpg,left eye,{110 + 5 * i},120,{140 + 5 * i},160"
        for i, name in enumerate(names[:2])
    ]
    Path("dogs.csv").write_text("\n".join(["image,part,top,left,bottom,right", *rows]) + "\n")


def place_weights(names: set[str], home: Path) -> None:
    """Put random weights where torchvision would put the trained ones."""
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name in sorted(names & set(torchvision.models.list_models())):
        torch.manual_seed(0)
        url = torchvision.models.get_model_weights(name).DEFAULT.url
        model = torchvision.models.get_model(name, weights=None)
        torch.save(model.state_dict(), folder / url.rsplit("/", 1)[1])


def run_blocks(text: str) -> None:
    """Run the Python, whose ``model`` and ``images`` are the reader's."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    images = torch.rand(2, 3, 64, 64)
    names = {"model": model, "images": images}
    exec(compile(read_fences(text, "python"), "README.md", "exec"), names)
    attribution = names["attribution"]
    assert attribution.shape == images.shape
    assert attribution.any()


def run_command(words: list[str]) -> str:
    """Run a command as it is printed, and say how long it took or why it was not run."""
    for word in words:
        if word in NOT_RUN:
            return f"not run: {NOT_RUN[word]}"
    program = Path(sys.executable).with_name(words[0])
    shorter = SHORTER.get(words[1], ())
    begun = time.perf_counter()
    done = subprocess.run([program, *words[1:], *shorter], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    for option in ("--out", "--save", "--figure"):
        if option in words:
            assert Path(words[words.index(option) + 1]).exists(), (words, option)
    return " ".join([*shorter, f"{time.perf_counter() - begun:.0f} s"])


def run(readme: Path) -> None:
    """Run every example, and print each with what came of it."""
    home = Path(captum_deconv.__file__).parent
    assert home.is_relative_to(sys.prefix), f"{home} is not what was installed in {sys.prefix}"
    assert not readme.is_relative_to(Path.cwd()), "run from outside the checkout"
    text = readme.read_text(encoding="utf-8")
    commands = read_commands(text)
    os.environ |= {"TORCH_HOME": str(Path("torch").resolve()), "MPLBACKEND": "Agg"}
    draw_photographs()
    place_weights({word for words in commands for word in words}, Path("torch"))
    run_blocks(text)
    for words in commands:
        print(f"{' '.join(words)}: {run_command(words)}", flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
