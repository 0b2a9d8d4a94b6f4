"""Timings of roialign_ext against torchvision and a grid_sample baseline: `python -m benchmarks.run`."""

import sys
from pathlib import Path

# `python -m` puts the checkout first on the path. Its sources of roialign_ext lack the compiled module unless it was
# built in place, so the installed package goes first.
_CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.sort(key=lambda entry: Path(entry).resolve() == _CHECKOUT)
