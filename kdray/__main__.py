"""`python -m kdray` is `kdray`."""

import sys

from kdray.cli import main

sys.exit(main())
