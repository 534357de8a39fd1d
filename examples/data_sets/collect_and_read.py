"""
Collect a data set's attributions
=================================

Computed once by one forward pass a batch, kept as safetensors, read again for a metric or a table.
A run that is killed goes on where it was.
"""

import tempfile

from captum_deconv import Collection, collect
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import PhotographTiles

tiles = PhotographTiles(96, embedded.prepare_tile(), names=("coffee", "rocket"))
folder = tempfile.TemporaryDirectory()
collect(
    embedded.load(),
    tiles,
    folder.name,
    methods=("guided_backprop", "deconvnet"),
    target="predicted",
    progress=False,
)

# %%
# Reading it back: a sequence of dictionaries, and of every field one tensor.

kept = Collection.open(folder.name)
print(len(kept), "items;", kept[0]["name"], "is taken for", embedded.CLASSES[kept[0]["target"]])
print("right:", f"{(kept.tensor('predicted') == embedded.CLASSES.index('coffee')).sum()} coffee")
attributions = kept.tensor("guided_backprop")
print(tuple(attributions.shape), attributions.dtype)

# %%
# As a table:

kept.to_pandas().head()

# %%
# And as a notebook shows it, the first twelve by the first method:

shown = Collection.open(folder.name)
shown
