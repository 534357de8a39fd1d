"""What is shipped: the wheel and the sdist build, and hold what they must and nothing unnamed.

``nox -s release`` hands over the archives that it built of what is committed; else they are built
here of what is there.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 5_000_000  # bytes
SHIPPED = {
    "py.typed",
    "sources/data/embedded.safetensors",
    "drawing/templates/base.html",
    "collection/templates/pictures.js",
    "comparison/templates/comparison.css",
    "gallery/templates/gallery.html",
    "gallery/atlas/templates/layer.js",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "CAPTUM_DECONV_ARCHIVES" in os.environ:
        return Path(os.environ["CAPTUM_DECONV_ARCHIVES"])
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


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, int]:
    """Return the size of each file in the wheel."""
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist()}


@pytest.fixture(scope="module")
def sdist(built: Path) -> dict[str, int]:
    """Return the size of each file in the sdist, below its one folder."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {entry.name.split("/", 1)[1]: entry.size for entry in archive if entry.isfile()}


def find_unnamed(files, licences):
    """Return the files that are neither code nor template and that the list does not name."""
    own = (".py", ".html", ".css", ".js", "py.typed")
    return {name for name in files if not name.endswith(own) and f"`{name}`" not in licences}


def test_the_wheel_holds_every_module_and_its_data(wheel):
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "captum_deconv").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package <= set(wheel)
    assert {name.split("/")[0] for name in wheel if "dist-info" not in name} == {"captum_deconv"}


def test_both_hold_licences_types_templates_and_weights(wheel, sdist):
    needed = {f"captum_deconv/{name}" for name in SHIPPED}
    assert needed <= set(wheel)
    assert needed <= set(sdist)
    assert {"LICENSE", "LICENSES.md"} <= {name.rsplit("/", 1)[1] for name in wheel}
    assert {"LICENSE", "LICENSES.md", "README.md", "pyproject.toml"} <= set(sdist)


def test_no_file_is_large(built, wheel, sdist):
    archives = {path.name: path.stat().st_size for path in built.iterdir()}
    assert len(archives) == 2
    sizes = {**wheel, **sdist, **archives}
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}
    assert sizes["captum_deconv/sources/data/embedded.safetensors"] > 100_000


def test_the_list_of_licences_names_whatever_is_no_code(wheel):
    licences = (ROOT / "LICENSES.md").read_text(encoding="utf-8")
    files = {name for name in wheel if "dist-info" not in name}
    assert find_unnamed(files, licences) == set()
    added = {"captum_deconv/cat.jpg", "captum_deconv/sources/data/other.safetensors"}
    assert find_unnamed(files | added, licences) == added


def test_the_public_import_and_the_command_are_declared(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "captum-deconv = captum_deconv.cli:main" in archive.read(entry).decode()
        (entry,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = archive.read(entry).decode()
    assert "License-Expression: BSD-3-Clause" in metadata
    assert "License-File: LICENSES.md" in metadata


def test_the_citation_is_of_this_version():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    tomllib = pytest.importorskip("tomllib", reason="Python is older than 3.11")
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found["cff-version"] == "1.2.0"
    assert found["type"] == "software"
    assert (found["version"], found["license"]) == (project["version"], project["license"])
    assert set(found["keywords"]) == set(project["keywords"])
    assert {"message", "title", "authors", "abstract"} <= set(found)
    values = [known["value"] for each in found["references"] for known in each["identifiers"]]
    assert {"arXiv:1311.2901", "arXiv:1312.6034", "arXiv:1412.6806"} <= set(values)
    for each in found["references"]:
        assert {"type", "title", "authors", "year"} <= set(each)
