"""An environment for each library that is not one of ours: torch is the same, the rest its own.

An environment is a ``venv`` without anything, a file that makes it see what the running Python has,
and the library's own release, installed without its dependencies: their pins would change torch,
and several gigabytes would be downloaded again.
"""

import site
import subprocess
import sys
import venv
from pathlib import Path

from libraries.peers import LIBRARIES

ENVIRONMENTS = Path(sys.prefix) / "peers"


def find_python(name: str, environments: Path, install: bool) -> str | None:
    """Return the Python that has a library; None where there is none.

    Args:
        name: One of ``LIBRARIES``.
        environments: The folder of the environments.
        install: Whether one that is missing is made, which takes a connection.

    Returns:
        The path of the interpreter.
    """
    requirements = LIBRARIES[name].requirements
    if not requirements:
        return sys.executable
    folder = environments / name
    ready, wanted = folder / "installed", "\n".join(requirements)
    if not (ready.exists() and ready.read_text() == wanted):
        if not install:
            return None
        try:
            make(folder, requirements)
        except subprocess.CalledProcessError as error:
            print(f"{name} could not be installed: {error}", flush=True)
            return None
        ready.write_text(wanted)
    return str(folder / "bin" / "python")


def make(folder: Path, requirements: tuple[str, ...]) -> None:
    """Make an environment, and install into it."""
    venv.create(folder, clear=True, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    lines = [f"import site; site.addsitedir({place!r})" for place in site.getsitepackages()]
    (packages / "shared.pth").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--target", str(packages), *requirements], check=True)
