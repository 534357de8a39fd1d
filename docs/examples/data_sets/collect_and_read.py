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
made = collect(
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
item = kept.by_name("coffee 0:96")
print(len(kept), "items;", item["name"], "is taken for", embedded.CLASSES[item["target"]])
attributions = kept.tensor("guided_backprop")
print(tuple(attributions.shape), attributions.dtype)

# %%
# As a table:

table = kept.to_pandas()
folder.cleanup()
table.head()
