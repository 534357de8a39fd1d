"""
Make an atlas of a whole network
================================

All layers at once, as a site that opens from the disk: from a drawing of the network down to each
channel, and back from a picture to the channels that it excites.
"""

import tempfile

import matplotlib.pyplot as plt

from captum_deconv import gallery
from captum_deconv.drawing.colours import to_colour
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import PhotographTiles

tiles = PhotographTiles(64, embedded.prepare_tile(), names=("coffee", "rocket"))
folder = tempfile.TemporaryDirectory()
found = gallery.atlas(embedded.load(), tiles, folder.name, channels=4, progress=False)
print(f"{found.page.name}, and a page for each of {len(found.layers)} layers:")
for layer in found.layers:
    print(f"  {layer.name}: {len(layer.channels)} channels, each sees {layer.size} pixels")

# %%
# What the site shows can be read back. Which channels of a layer are most like channel 2?

alike = found.spread("relu2").find_alike(2)[:3]
print("alike:", ", ".join(f"channel {channel} ({cosine:.2f})" for channel, cosine in alike))

# %%
# And the pictures, as numbers again: above the patches of channel 2, below their projections.

patches, projections = found.patches("relu2", 2), found.projections("relu2", 2)
figure, panels = plt.subplots(2, 6, figsize=(7, 2.5), layout="constrained")
for rank, (above, below) in enumerate(panels.T):
    above.imshow(patches[rank].permute(1, 2, 0).numpy())
    below.imshow(to_colour(projections[rank]))
    above.set_axis_off()
    below.set_axis_off()
figure.set_label("Six patches that channel 2 of relu2 responds to, and below each its projection.")
folder.cleanup()
