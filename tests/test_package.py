"""What is shipped: the wheel and the sdist build, and hold what they must."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "captum_deconv"
    left_out = shutil.ignore_patterns(
        *(".*", "__pycache__", "*.egg-info", "build", "dist", "demo", "_build", "results")
    )
    shutil.copytree(ROOT, source, ignore=left_out)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_the_wheel_holds_every_module_and_its_data(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "captum_deconv").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "captum_deconv/py.typed" in names
    assert package <= names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"captum_deconv"}


def test_the_sdist_builds_from_what_it_holds(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "captum_deconv/engine/rules.py"} <= names


def test_the_public_import_and_the_command_are_declared(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "captum-deconv = captum_deconv.cli:main" in archive.read(entry).decode()
