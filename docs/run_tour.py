"""Run the tour and keep what it showed: `python docs/run_tour.py`, which a test repeats.

A notebook in `docs/` is opened by people who have not run it yet, so its outputs are kept with it;
of the machine it ran on, nothing is.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).parent / "tour.ipynb"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(path: Path = TOUR) -> nbformat.NotebookNode:
    """Run a notebook from its first cell on, in a folder that is empty.

    Args:
        path: The notebook; it is not changed.

    Returns:
        It with what its cells show today.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(
            notebook, timeout=120, kernel_name="python3", resources=resources, record_timing=False
        ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # What libraries say on stderr is of this machine; and what is shown as a picture need
            # not be printed, too.
            shown = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = shown
            for output in shown:
                if len(output.get("data", {})) > 1:
                    del output.data["text/plain"]
    return notebook


if __name__ == "__main__":
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else TOUR
    nbformat.write(run(), to)
