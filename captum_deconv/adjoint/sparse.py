r"""The matrix of a layer, written down entry by entry.

Along one axis, output position `o` and tap `t` read the padded position `o s + t d`; the padding
says which input position that is, if any:

    W[(f, o), (c, i)] = sum over the taps t that read i from o of weight[f, c, t]

Built from this index arithmetic alone, without a convolution, it is the oracle for one.

Example:
    >>> from torch import nn
    >>> conv = nn.Conv1d(1, 1, 2, bias=False)
    >>> _ = nn.init.ones_(conv.weight)
    >>> matrix(conv, (3,)).toarray()
    array([[1., 1., 0.],
           [0., 1., 1.]])
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn

from captum_deconv.adjoint.geometry import Geometry, describe, read_weight

Positions = npt.NDArray[np.int64]


def matrix(
    module: nn.Module, input_size: Sequence[int], *, max_bytes: int = 2**28
) -> "sparse.csr_array[np.float64]":
    """Write down the matrix `W` of a layer, bias aside.

    `W @ x.flatten()` is `module(x).flatten()` for one unbatched `x` of shape `(C, *input_size)` and
    a layer without bias. A layer that is not supported is a TypeError.

    Args:
        module: An `nn.Conv`, `nn.ConvTranspose` or `nn.Linear`.
        input_size: The spatial size alone, such as `(8, 8)`; `()` for `nn.Linear`.
        max_bytes: Refuse a matrix that takes more than this.

    Returns:
        A float64 `csr_array` of shape `(C_out * prod(output), C_in * prod(input_size))`.

    Raises:
        ValueError: If the size does not fit the layer, or the matrix would be too large.
    """
    geometry = describe(module, input_size)
    weight = read_weight(module)
    if weight.device.type == "meta":
        raise ValueError(f"{type(module).__name__} is on the meta device: its weight has no values")
    needed = measure_matrix(geometry)
    if needed > max_bytes:
        rows, columns = geometry.shape
        raise ValueError(
            f"the matrix of {type(module).__name__} at {geometry.input_size} has {rows} rows, "
            f"{columns} columns and takes {needed / 2**20:,.0f} MiB, more than the "
            f"{max_bytes / 2**20:,.0f} MiB of max_bytes: use a smaller input_size, or "
            f"linear_operator, which needs no matrix"
        )
    values = weight.to("cpu", torch.float64).numpy()
    if geometry.kind == "linear":
        return sparse.csr_array(values)
    if geometry.kind == "transposed":
        # The transpose of the convolution that runs the other way.
        built = _build(geometry, values, geometry.output_size, geometry.input_size)
        return sparse.csr_array(built.T)
    return _build(geometry, values, geometry.input_size, geometry.output_size)


def measure_matrix(geometry: Geometry) -> int:
    """Count the bytes that a layer's sparse matrix takes at most.

    Args:
        geometry: The layer at its size.

    Returns:
        Bytes: a float64 value and an int64 column for each entry, an int64 for each row.
    """
    convolved = geometry.input_size if geometry.kind == "transposed" else geometry.output_size
    pairs = geometry.in_channels * geometry.out_channels // geometry.groups
    entries = math.prod(convolved) * pairs * geometry.taps
    return 16 * entries + 8 * (geometry.shape[0] + 1)


def _build(
    geometry: Geometry,
    weight: npt.NDArray[np.float64],
    reads: tuple[int, ...],
    writes: tuple[int, ...],
) -> "sparse.csr_array[np.float64]":
    """Build the matrix of the convolution from a map of size `reads` to one of size `writes`."""
    filters, per_group = weight.shape[:2]
    channels = per_group * geometry.groups
    axes = range(len(reads))
    # Filter f reads the channels of its group.
    first = np.arange(filters) // (filters // geometry.groups) * per_group
    channel = first[:, None] + np.arange(per_group)[None, :]
    flat_writes = np.arange(math.prod(writes))
    rows: list[Positions] = []
    columns: list[Positions] = []
    entries: list[npt.NDArray[np.float64]] = []
    for number, tap in enumerate(itertools.product(*(range(k) for k in geometry.kernel))):
        sources = [
            _find_sources(geometry, axis, tap[axis], reads[axis], writes[axis]) for axis in axes
        ]
        grid = np.meshgrid(*sources, indexing="ij")
        inside = np.logical_and.reduce([part >= 0 for part in grid]).ravel()
        strides = [math.prod(reads[axis + 1 :]) for axis in axes]
        flat_reads = sum(part * step for part, step in zip(grid, strides, strict=True))
        source = np.asarray(flat_reads).ravel()[inside]
        target = flat_writes[inside]
        shape = (filters, per_group, len(target))
        row = np.arange(filters)[:, None, None] * math.prod(writes) + target
        column = channel[:, :, None] * math.prod(reads) + source
        rows.append(np.broadcast_to(row, shape).ravel())
        columns.append(np.broadcast_to(column, shape).ravel())
        taken = weight.reshape(filters, per_group, -1)[:, :, number, None]
        entries.append(np.broadcast_to(taken, shape).ravel())
    shape_of_all = (filters * math.prod(writes), channels * math.prod(reads))
    index = (np.concatenate(rows), np.concatenate(columns))
    # Two taps can read one value where padding copies it: the conversion adds them up.
    return sparse.csr_array(sparse.coo_array((np.concatenate(entries), index), shape=shape_of_all))


def _find_sources(geometry: Geometry, axis: int, tap: int, reads: int, writes: int) -> Positions:
    """Find the input position that a tap reads at each output position, -1 for none."""
    at = np.arange(writes) * geometry.stride[axis] + tap * geometry.dilation[axis]
    at = at - geometry.before[axis]
    if geometry.mode == "replicate":
        found = np.clip(at, 0, reads - 1)
    elif geometry.mode == "circular":
        found = at % reads
    elif geometry.mode == "reflect":
        found = reads - 1 - np.abs(reads - 1 - np.abs(at))
    else:
        found = np.where((at >= 0) & (at < reads), at, -1)
    return np.asarray(found, np.int64)
