"""
Make an atlas of a whole network
================================

All layers at once, as a site that opens from the disk: from a drawing of the network down to each
channel, and back from a picture to the channels that it excites.
"""

import tempfile

from captum_deconv import gallery
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import PhotographTiles

tiles = PhotographTiles(64, embedded.prepare_tile(), names=("coffee", "rocket"))
folder = tempfile.TemporaryDirectory()
found = gallery.atlas(embedded.load(), tiles, folder.name, channels=4, progress=False)
print(f"{found.page.name}, and a page for each of {len(found.layers)} layers:")
for layer in found.layers:
    print(f"  {layer.name}: {len(layer.channels)} channels, each sees {layer.size} pixels")

# %%
# What the site shows can be read back. How do the channels of a layer respond to the data?

spread = found.spread("relu2")
print(tuple(found.projections("relu2", channel=2).shape))
folder.cleanup()
