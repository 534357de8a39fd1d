"""Say which GPU there is, or, in one line and with exit status 1, that there is none.

What `make test-gpu` and `make bench-gpu` begin with.
"""

import sys
import warnings

import torch


def main() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an old driver, at length
        available = torch.cuda.is_available()
    if not available:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
        print(f"no GPU: torch {torch.__version__}, {built}, finds no CUDA device", file=sys.stderr)
        return 1
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    print(f"GPU: {', '.join(names)}; torch {torch.__version__}, CUDA {torch.version.cuda}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
