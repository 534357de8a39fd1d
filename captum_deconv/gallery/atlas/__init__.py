r"""A whole network to look at: an offline site of what every layer's channels respond to.

One scan of all layers finds each channel's strongest images and how its activations spread over the
data; the strongest neurons are projected back to pixels; pages show all of it, from a drawing of
the network down to a channel, and from a picture back up to the channels that it excites.

>>> import tempfile, torch
>>> from torch import nn
>>> from captum_deconv import gallery
>>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).eval()
>>> images = list(torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
>>> with tempfile.TemporaryDirectory() as folder:
...     found = gallery.atlas(model, images, folder, progress=False)
...     found.layers[0].name, found.projections("1", channel=2).shape, found.page.name
('1', torch.Size([9, 3, 3, 3]), 'index.html')

What is computed is kept under ``atlas/`` beside the pages, and read by :meth:`Atlas.open`.

In reading order: ``network`` (structure, from autograd's graph), ``layers`` (which are shown),
``rail`` (the drawing), ``spread`` (statistics of a scan), ``parts`` (pictures, some channels at a
time), ``reading`` (the atlas, read back), ``pages`` (the site), ``cost`` (what it will take),
``keeping``
(what a folder holds), ``making`` (all of it, resumed).
"""

from captum_deconv.gallery.atlas.making import atlas
from captum_deconv.gallery.atlas.reading import Atlas, AtlasError

__all__ = ["Atlas", "AtlasError", "atlas"]
