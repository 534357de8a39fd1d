"""See what activates a feature map: its strongest patches, and their projections back to pixels.

The idea is figure 2 of Zeiler & Fergus 2013 (arXiv:1311.2901): a feature map is shown by the nine
images that excite it most, each cut to what the neuron sees, and beside them the deconvnet's
projection of that one activation down to the pixels. The patches say what the nine have in common
for a person; the projections say what they have in common for the network.

:func:`captum_deconv.features.scan` finds the nine, :func:`project` makes the pictures, and the
:class:`Gallery` that it returns draws a contact sheet or writes a page:

>>> import torch
>>> from torch import nn
>>> from captum_deconv import features, gallery
>>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).eval()
>>> dataset = list(torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
>>> index = features.scan(model, ["2"], dataset, k=9)
>>> found = gallery.project(index, model, dataset, method="deconvnet")
>>> found.projections.shape  # four channels, nine patches each, of the 4 x 4 pixels a neuron sees
torch.Size([4, 9, 3, 4, 4])
>>> figure = found.figure(channels=[0, 2])

``found.save_html("page")`` writes the page.

In reading order: ``samples`` (images read once), ``projector`` and ``projection`` (crops in,
projections out), ``data`` (what came of it), ``pictures``, ``sheet`` and ``page`` (how that is
drawn), ``collection`` (the gallery: the data with its views), ``files`` (a whole layer, in parts),
``evolution`` (the same channels over training), ``atlas`` (a whole network as a site).
"""

from captum_deconv.gallery.atlas import Atlas, AtlasError, atlas
from captum_deconv.gallery.collection import Gallery
from captum_deconv.gallery.data import GalleryData
from captum_deconv.gallery.evolution import Evolution, evolution
from captum_deconv.gallery.page import write_page
from captum_deconv.gallery.projection import project

__all__ = [
    "Atlas",
    "AtlasError",
    "Evolution",
    "Gallery",
    "GalleryData",
    "atlas",
    "evolution",
    "project",
    "write_page",
]
