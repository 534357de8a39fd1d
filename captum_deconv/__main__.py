"""``python -m captum_deconv``: the same as the command ``captum-deconv``."""

from captum_deconv.cli import main

if __name__ == "__main__":
    main()
