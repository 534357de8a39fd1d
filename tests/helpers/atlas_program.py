"""An atlas in a process of its own, one of those that ``torchrun`` starts: ``FOLDER PAUSE``."""

import sys
from pathlib import Path

from atlases import run

if __name__ == "__main__":
    run(Path(sys.argv[1]), float(sys.argv[2]))
