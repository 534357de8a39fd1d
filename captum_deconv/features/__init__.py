r"""What excites a feature map: its strongest activations over a data set.

For each channel `c` of a layer with activations `a`, the `k` largest

    max over p of a[c, p](image)

over all images of a data set, with the image and the place: the nine images beside which
Zeiler & Fergus (2013, arXiv:1311.2901, figure 2) laid their projections.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from captum_deconv import features
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    >>> images = torch.rand(20, 3, 8, 8)  # any map-style data set: an ImageFolder, for one
    >>> index = features.scan(model, "1", images, k=9, progress=False)
    >>> index.values["1"].shape, index.positions["1"].shape
    (torch.Size([4, 9]), torch.Size([4, 9, 2]))

In reading order: ``records`` (what an index is an index of), ``reading`` (samples in batches,
the unreadable ones said), ``batches`` (all of one size), ``ranking`` (a layer's running top-k),
``index`` (the result, on disk), ``progress``, ``distributed``, ``scanner`` (a scan under way),
``scanning`` (what is asked for).
"""

from captum_deconv.features.distributed import Process, ScanInterruptedError, processes
from captum_deconv.features.index import ActivationIndex, IndexFileError, IndexMismatchError
from captum_deconv.features.records import UnreadableSampleError
from captum_deconv.features.scanning import ScanWarning, scan

__all__ = [
    "ActivationIndex",
    "IndexFileError",
    "IndexMismatchError",
    "Process",
    "ScanInterruptedError",
    "ScanWarning",
    "UnreadableSampleError",
    "processes",
    "scan",
]
