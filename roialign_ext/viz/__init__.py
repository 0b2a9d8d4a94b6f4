"""Figures of how the operators read a box, and of their localisation errors.

Requires matplotlib, the optional extra ``viz``. ``python -m roialign_ext.viz`` writes the gallery of docs/gallery.md.
"""

try:
    import matplotlib as _matplotlib
except ImportError as error:
    raise ImportError('roialign_ext.viz needs matplotlib: pip install "roialign_ext[viz]"') from error

from .boxes import draw_box
from .gallery import write_gallery
from .localisation import plot_localisation_error, position_error, value_error

__all__ = ["draw_box", "plot_localisation_error", "position_error", "value_error", "write_gallery"]

del _matplotlib
