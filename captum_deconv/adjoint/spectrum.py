r"""What an inverse would need: singular values, rank and the least-squares reconstruction.

With `W = U S V^T` the transpose weighs each right singular vector by `s^2`, an inverse by 1:

    ct(c(x)) = V S^2 V^T x        pinv(W) W x = V 1[S > 0] V^T x

The transpose inverts where all singular values are 1, nothing inverts where they are 0. Small
layers are decomposed in full, one block for each group; larger ones through products with `W`
and `W^T` alone: Lanczos (ARPACK, Lehoucq et al. 1998) for the ends of the spectrum, LSMR (Fong &
Saunders 2011, arXiv:1006.0758) for least squares.

Example:
    >>> from torch import nn
    >>> conv = nn.Conv2d(4, 1, 2, stride=2, bias=False)
    >>> singular_values(conv, (4, 4)).shape  # 4 outputs see 64 inputs: the rank is 4 at most
    (4,)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import linalg
from torch import Tensor, nn

from captum_deconv.adjoint.geometry import Geometry, describe, read_weight
from captum_deconv.adjoint.sparse import matrix, measure_matrix
from captum_deconv.adjoint.transposition import linear_part, transpose_of

Vector = npt.NDArray[np.float64]

# A dense decomposition takes about `20 m n min(m, n)` operations: seconds up to here.
_DENSE_SIDE = 2048
_DENSE_WORK = 2 * 10**10


class Spectrum(NamedTuple):
    """The ends of a spectrum.

    Attributes:
        largest: The largest singular value.
        smallest: The smallest of the `min(rows, columns)` singular values; None where Lanczos did
            not converge.
        rank: How many are not zero; None where that cannot be told without a decomposition.
        method: `"dense"` or `"lanczos"`.
    """

    largest: float
    smallest: float | None
    rank: int | None
    method: str


class Reconstruction(NamedTuple):
    """An image, its map, and two ways back; all float64 on the CPU.

    Attributes:
        x: The image, `(C, *spatial)`.
        activation: `c(x) = W x`, bias aside, `(C_out, *output)`.
        transposed: `ct(c(x)) = W^T W x`, `(C, *spatial)`.
        least_squares: The image of least norm with that activation, `pinv(W) W x`,
            `(C, *spatial)`.
        singular_values: In descending order: all of them where the layer is small enough for a
            dense decomposition, otherwise the largest few, to three digits.
        complete: Whether these are all.
    """

    x: Tensor
    activation: Tensor
    transposed: Tensor
    least_squares: Tensor
    singular_values: Tensor
    complete: bool


def linear_operator(
    module: nn.Module, input_size: Sequence[int], *, device: torch.device | str | None = None
) -> linalg.LinearOperator[np.float64]:
    """Wrap a layer as SciPy's `LinearOperator`, in float64 and without a matrix.

    A layer that is not supported is a TypeError, a size that does not fit it a ValueError.

    Args:
        module: An `nn.Conv`, `nn.ConvTranspose` or `nn.Linear`; it is copied, not changed.
        input_size: The spatial size alone; `()` for `nn.Linear`.
        device: Where the products are computed; the layer's own device if None.

    Returns:
        An operator of shape `(C_out * prod(output), C_in * prod(input_size))` on flat arrays.
    """
    geometry = describe(module, input_size)
    place = torch.device(device) if device is not None else read_weight(module).device
    forward = linear_part(module, torch.float64, place)
    transpose = transpose_of(forward, geometry.input_size)

    def apply(layer: nn.Module, shape: tuple[int, ...], flat: Vector) -> Vector:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using padding='same' with even kernel")
            # SciPy hands out buffers that it writes to again, and (n, 1) columns too: copy.
            batch = torch.tensor(np.asarray(flat, np.float64).reshape(1, *shape), device=place)
            result: Vector = layer(batch).flatten().cpu().numpy()
        return result

    return linalg.LinearOperator(
        geometry.shape,
        matvec=lambda flat: apply(forward, geometry.input_shape, flat),
        rmatvec=lambda flat: apply(transpose, geometry.output_shape, flat),
        dtype=np.dtype(np.float64),
    )


def singular_values(module: nn.Module, input_size: Sequence[int]) -> Vector:
    """Compute every singular value of a small layer by dense decomposition.

    A layer that is not supported is a TypeError.

    Args:
        module: An `nn.Conv`, `nn.ConvTranspose` or `nn.Linear`.
        input_size: The spatial size alone; `()` for `nn.Linear`.

    Returns:
        The `min(rows, columns)` values in descending order.

    Raises:
        ValueError: If the size does not fit, or the layer is too large for it.
    """
    geometry = describe(module, input_size)
    if not is_small(geometry):
        rows, columns = geometry.shape
        raise ValueError(
            f"all singular values of {type(module).__name__} at {geometry.input_size} need a dense "
            f"decomposition of {geometry.groups} blocks of {rows // geometry.groups} x "
            f"{columns // geometry.groups}: use a smaller input_size, or check(spectrum=True), "
            f"which finds the largest and the smallest without it"
        )
    whole = matrix(module, geometry.input_size)
    rows, columns = (side // geometry.groups for side in geometry.shape)
    parts = [
        np.linalg.svd(
            whole[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns].toarray(),
            compute_uv=False,
        )
        for i in range(geometry.groups)
    ]
    descending: Vector = np.sort(np.concatenate(parts))[::-1].copy()
    return descending


def is_small(geometry: Geometry) -> bool:
    """Say whether a layer is small enough for a dense decomposition.

    Args:
        geometry: The layer at its size.

    Returns:
        True where it takes seconds at most.
    """
    rows, columns = (side // geometry.groups for side in geometry.shape)
    side = min(rows, columns)
    work = geometry.groups * rows * columns * side
    return side <= _DENSE_SIDE and work <= _DENSE_WORK and measure_matrix(geometry) <= 2**28


def measure_spectrum(
    module: nn.Module,
    input_size: Sequence[int],
    *,
    operator: linalg.LinearOperator[np.float64] | None = None,
    seed: int = 0,
    max_restarts: int = 40,
) -> Spectrum:
    """Measure the largest and the smallest singular value and the rank.

    Args:
        module: An `nn.Conv`, `nn.ConvTranspose` or `nn.Linear`.
        input_size: The spatial size alone.
        operator: What to multiply with where the layer is not small; built if None.
        seed: Of Lanczos' first vector.
        max_restarts: Of Lanczos, before it gives up.

    Returns:
        From a dense decomposition where the layer is small. Otherwise from Lanczos on the smaller
        of `W W^T` and `W^T W`: `smallest` is then `|W v|` of the vector it converged to, never
        below the true value, and the rank is known only if that is clearly not zero.
    """
    geometry = describe(module, input_size)
    if is_small(geometry):
        values = singular_values(module, geometry.input_size)
        # NumPy's matrix_rank uses the same threshold: the rounding error of the decomposition.
        threshold = max(geometry.shape) * np.finfo(np.float64).eps * values[0]
        rank = int((values > threshold).sum())
        return Spectrum(float(values[0]), float(values[-1]), rank, "dense")
    if operator is None:
        operator = linear_operator(module, geometry.input_size)
    square = _multiply_out(operator, seed)
    largest = float(_find_largest(square, 1, 1e-10)[0])
    side = square.gram.shape[0]
    if side == 1 or largest == 0:
        return Spectrum(largest, largest, int(largest > 0), "lanczos")
    try:
        _, vectors = linalg.eigsh(
            square.gram,
            k=1,
            which="SA",
            v0=square.start,
            tol=1e-6,
            ncv=min(64, side),
            maxiter=max_restarts,
        )
    except linalg.ArpackNoConvergence:
        return Spectrum(largest, None, None, "lanczos")
    vector = vectors[:, 0]
    smallest = float(np.linalg.norm(square.first.matvec(vector)) / np.linalg.norm(vector))
    # The Gram matrix squares the values: below sqrt(eps) of the largest they are noise.
    resolution = math.sqrt(side * np.finfo(np.float64).eps) * largest
    return Spectrum(largest, smallest, side if smallest > resolution else None, "lanczos")


def solve_least_squares(
    operator: linalg.LinearOperator[np.float64], activation: Vector, *, max_products: int = 2000
) -> tuple[Vector, bool]:
    """Find the input of least norm that comes closest to an activation.

    Args:
        operator: The layer.
        activation: A flat `W x`.
        max_products: Steps of LSMR, a product with `W` and one with `W^T` each.

    Returns:
        The flat input, and whether LSMR converged on it.
    """
    found = linalg.lsmr(
        operator, activation, atol=1e-13, btol=1e-13, conlim=0.0, maxiter=max_products
    )
    return found[0], int(found[1]) != 7  # 7: the step limit was reached


def reconstruct(module: nn.Module, image: Tensor, *, leading: int = 16) -> Reconstruction:
    """Send an image through a layer and back, by transpose and by least squares.

    Args:
        module: An `nn.Conv`, `nn.ConvTranspose` or `nn.Linear`; it is not changed.
        image: One input, `(C, *spatial)` or `(1, C, *spatial)`, of any real floating point type.
        leading: How many singular values to find where the layer is too large for all.

    Returns:
        What a figure of the five needs.

    Raises:
        TypeError: If the layer is not supported, or the image is not of a floating point type.
        ValueError: If the image does not fit the layer.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"the image must be a floating point tensor, not {kind}")
    axes = 1 + len(getattr(module, "kernel_size", ()))
    one = image[0] if image.ndim == axes + 1 and len(image) == 1 else image
    if one.ndim != axes or one.numel() == 0:
        raise ValueError(
            f"{type(module).__name__} takes one image with {axes} axes, channels first, and an "
            f"optional batch axis of 1; got the shape {tuple(image.shape)}"
        )
    geometry = describe(module, tuple(one.shape[1:]))
    if tuple(one.shape) != geometry.input_shape:
        raise ValueError(
            f"{type(module).__name__} takes {geometry.in_channels} channels, not {one.shape[0]}"
        )
    x = one.detach().to("cpu", torch.float64, copy=True)
    operator = linear_operator(module, geometry.input_size, device="cpu")
    activation = operator.matvec(x.flatten().numpy())
    found, _ = solve_least_squares(operator, activation)
    if is_small(geometry):
        values = singular_values(module, geometry.input_size)
    else:
        # The largest values of a convolution lie close together: more digits would take minutes.
        values = _find_largest(_multiply_out(operator, 0), leading, 1e-3)
    return Reconstruction(
        x,
        torch.from_numpy(activation).view(geometry.output_shape),
        torch.from_numpy(operator.rmatvec(activation)).view(geometry.input_shape),
        torch.from_numpy(found).view(geometry.input_shape),
        torch.from_numpy(values),
        len(values) == min(geometry.shape),
    )


class _Square(NamedTuple):
    """The smaller of `W^T W` and `W W^T`, for Lanczos.

    `first` is the `W` or `W^T` that comes first; `gram` is divided by `scale` twice, since ARPACK
    takes what is far below 1 for converged. `scale` is 0 where `W` sends the random `start` to
    nothing, hence is zero.
    """

    first: linalg.LinearOperator[np.float64]
    gram: linalg.LinearOperator[np.float64]
    start: Vector
    scale: float


def _multiply_out(operator: linalg.LinearOperator[np.float64], seed: int) -> _Square:
    rows, columns = operator.shape
    first = operator.adjoint() if rows < columns else operator
    side = min(rows, columns)
    start = np.random.default_rng(seed).standard_normal(side)
    scale = float(np.linalg.norm(first.matvec(start)) / np.linalg.norm(start))
    gram = linalg.LinearOperator(
        (side, side),
        matvec=lambda v: first.rmatvec(first.matvec(v) / scale) / scale,
        dtype=np.dtype(np.float64),
    )
    return _Square(first, gram, start, scale)


def _find_largest(square: _Square, count: int, tolerance: float) -> Vector:
    """Find up to `count` of the largest singular values, in descending order."""
    side = square.gram.shape[0]
    if side == 1 or not square.scale:  # ARPACK takes neither
        return np.array([square.scale])
    squares = linalg.eigsh(
        square.gram,
        k=min(count, side - 1),
        which="LA",
        v0=square.start,
        tol=tolerance,
        return_eigenvectors=False,
    )
    descending: Vector = np.sort(square.scale * np.sqrt(np.maximum(squares, 0.0)))[::-1].copy()
    return descending
