"""Environments of their own: the lowest and the newest of everything, and what a user installs.

    nox -s lowest     each dependency at pyproject.toml's lower bound, on the oldest Python
    nox -s newest     each at its newest release, on a new Python
    nox -s release    the wheel alone, and README's examples from an empty folder

Each takes some 6 GB, most of it torch with CUDA, below .nox/. Arguments for pytest come after
``--``, as in ``nox -s lowest -- tests/engine``. A Python that is not there is an error that names
it; ``--force-python 3.11`` takes another.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent

# uv, since it can choose the lowest versions of what pyproject.toml names.
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = True
nox.options.stop_on_first_error = False

# What `lowest` does without: tests of the extras, and of the repository's own pages and archives;
# and the complaints of old libraries' newest dependencies, such as matplotlib 3.8's of pyparsing.
LOWEST = [
    *("-W", "ignore::DeprecationWarning"),
    *("--ignore=tests/benchmarks", "--ignore=tests/comparison", "--ignore=tests/docs"),
    *("--ignore=tests/seams", "--ignore=captum_deconv/seams", "--ignore=tests/test_package.py"),
]


def show_every_python() -> None:
    """Let pyenv, which hides all Pythons but the chosen one, show them all."""
    if shutil.which("pyenv") and "PYENV_VERSION" not in os.environ:
        listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True)
        os.environ["PYENV_VERSION"] = ":".join(reversed(listed.stdout.split()))


show_every_python()


def run_tests(session: nox.Session, *chosen: str) -> None:
    """Say what is installed, and run the tests on it."""
    session.run("uv", "pip", "list", external=True)
    session.run("python", "-m", "pytest", "-q", "-m", "not slow", *(session.posargs or chosen))


@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest version of every dependency."""
    session.install("--resolution", "lowest-direct", "-e", ".[unit]")
    run_tests(session, "-n", "2", *LOWEST)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """Run the tests with the newest version of every dependency."""
    session.install("--upgrade", "-e", ".[test]")
    run_tests(session, "-n", "2")


@nox.session
def release(session: nox.Session) -> None:
    """Build what is committed, check the archives, and run README's examples with the wheel alone.

    The tools are those of the environment that nox itself is in.
    """
    changed = session.run("git", "status", "--porcelain", external=True, silent=True)
    if changed:
        session.warn("what is not committed is not in the archives:\n%s", changed)
    tool = [sys.executable, "-m"]
    with tempfile.TemporaryDirectory() as folder:
        source, archives, empty = (Path(folder, name) for name in ("source", "archives", "empty"))
        session.run("git", "clone", "--quiet", str(ROOT), str(source), external=True)
        session.run(
            *(*tool, "build", "--outdir", str(archives), str(source)), external=True, silent=True
        )
        paths = sorted(map(str, archives.iterdir()))
        session.run(*tool, "twine", "check", "--strict", *paths, external=True)
        session.run(
            *(*tool, "pytest", "-q", str(ROOT / "tests/test_package.py")),
            env={"CAPTUM_DECONV_ARCHIVES": str(archives)},
            external=True,
        )
        session.install(*(path for path in paths if path.endswith(".whl")))
        empty.mkdir()
        with session.chdir(empty):
            program = ROOT / "tests/helpers/readme_program.py"
            session.run("python", str(program), str(ROOT / "README.md"), *session.posargs)
