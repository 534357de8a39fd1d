"""Attributions of a whole data set: kept, resumed, read back.

>>> import tempfile, torch
>>> from torch import nn
>>> from captum_deconv import Collection, collect
>>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
>>> images = list(torch.rand(6, 3, 8, 8))
>>> folder = tempfile.mkdtemp()
>>> kept = collect(model, images, folder, methods=["deconvnet"], progress=False)
>>> len(kept), kept[2]["deconvnet"].shape, kept[2]["deconvnet"].dtype
(6, torch.Size([3, 8, 8]), torch.float16)
>>> Collection.open(folder).tensor("deconvnet").shape
torch.Size([6, 3, 8, 8])

On disk a collection is a folder of safetensors files and a ``manifest.json``, which any tool reads;
``docs/collections.md`` describes both. A row's place in them is known before anything is computed,
so every row is written where it stays: a run that was killed goes on, and several processes write
to the same files, with the same bytes in the end.

In reading order: ``layout`` (which bytes are whose), ``samples`` (a data set's images and labels,
in batches), ``questions`` (what is asked of a batch), ``options`` (what may be asked for), ``job``
(what is done to every batch), ``planning`` (what the files will hold), ``writing`` (rows to disk,
and how far a run has come), ``collecting`` (the way through all of it), ``reading`` (the
collection), ``pictures`` (a page of it).
"""

from captum_deconv.collection.collecting import collect
from captum_deconv.collection.job import CollectWarning
from captum_deconv.collection.layout import CollectionError
from captum_deconv.collection.reading import Collection

__all__ = ["CollectWarning", "Collection", "CollectionError", "collect"]
