"""``python -m vggrpo``: see ``vggrpo.cli``."""

import sys

from vggrpo.cli import main

if __name__ == "__main__":
    sys.exit(main())
