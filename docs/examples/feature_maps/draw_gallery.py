"""
See what activates a feature map
================================

Figure 2 of Zeiler and Fergus: of each channel the nine patches that excite it most, and beside them
their projections back to pixels. A scan finds the nine, a gallery projects them.
"""

from captum_deconv import features, gallery
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import PhotographTiles

model = embedded.load()
tiles = PhotographTiles(64, embedded.prepare_tile(), names=("coffee", "rocket", "motorcycle"))
index = features.scan(model, "relu2", tiles, k=9, progress=False)
best = tiles.samples[index.samples["relu2"][8, 0]]
print(f"{len(tiles)} tiles; channel 8 is excited most by {best}")

# %%
# The page to click through is written by ``found.save_html(folder)``.

found = gallery.project(
    index, model, tiles, channels=range(6), method=["deconvnet", "guided_backprop"]
)
figure = found.figure()
figure.set_label(
    "Six channels of relu2: nine patches of each, and nine projections by two methods."
)
