"""A wrong argument is answered before torch is loaded: the import alone takes over a second."""

import subprocess
import sys

PROGRAM = """
import sys
from typer.testing import CliRunner
from captum_deconv.cli import app

folder = sys.argv[1]
image = f"{folder}/one.png"
for code, said, *words in [
    (0, "Usage", "--help"),
    (0, "Usage", "attribute", "--help"),
    (0, "torch ", "--version"),
    (1, "no such file", "attribute", f"{folder}/no.png", "-o", "a.png"),
    (1, "not an image", "attribute", f"{folder}/text.png", "-o", "a.png"),
    (1, "no image in it", "attribute", f"{folder}/empty", "-o", "a.png"),
    (1, "must end in", "attribute", image, "-o", "a.xyz"),
    (1, "this would overwrite", "attribute", f"{folder}/", "-o", image),
    (2, "nowhere to put", "attribute", image),
    (2, "did you mean resnet50", "attribute", image, "-o", "a.png", "-m", "resnet5"),
    (1, "no gradients", "attribute", image, "-o", "a.png", "-m", "quantized_resnet50"),
    (1, "no such weights file", "attribute", image, "-o", "a.png", "-w", "no.pt"),
    (2, "no device", "attribute", image, "-o", "a.png", "--device", "gpu"),
    (2, "a neuron is", "attribute", image, "-o", "a.png", "--layer", "a", "--neuron", "x:y"),
    (2, "guided_gradcam", "attribute", image, "-o", "a.png", "--method", "gradcam"),
    (2, "no model", "coverage", "-m", "nothing"),
    (1, "no such file", "coverage", f"{folder}/no.png"),
    (2, "needs out and kernel", "check", "--conv", "in=3"),
    (2, "a size is", "check", "--conv", "in=3,out=3,kernel=3", "--size", "0x1"),
    (2, "either --model or --conv", "check"),
    (1, "no such folder", "scan", "-l", "a", "--data", f"{folder}/no", "-o", "a.safetensors"),
    (2, "names one twice", "scan", "-l", "a", "-l", "a", "--data", folder, "-o", "a.safetensors"),
    (1, "no such activation index", "gallery", f"{folder}/no", "--data", folder, "-o", folder),
    (1, "no such file", "occlude", f"{folder}/no.png", "-l", "a", "-o", "a.png"),
    (1, "must end in", "occlude", image, "-l", "a", "-o", "a.xyz"),
    (1, "no such file", "invariance", f"{folder}/no.png", "-l", "a", "-o", "a.png"),
    (1, "no such file of boxes", "correspond", f"{folder}/no.csv", "-l", "a", "-o", "a.png"),
    (1, "no such folder", "diagnose", "--data", f"{folder}/no", "-o", folder),
    (2, "channels are", "features", "-l", "a", "--data", folder, "-o", folder, "--channels", "x"),
]:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, (words, result.exit_code, result.output)
    assert said in result.output, (words, result.output)
    assert "torch" not in sys.modules, words
"""


def test_wrong_arguments_are_answered_without_torch(folder, tmp_path):
    (folder / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert list(tmp_path.iterdir()) == []
