"""``python -m medtl_monai`` is ``medtl``."""

import sys

from medtl_monai.cli import main

if __name__ == "__main__":
    sys.exit(main())
