r"""Is it the transpose, and is it an inverse?

For a layer `c(x) = W x`, bias aside, and a candidate `ct` for its transpose:

    1. ct(g) = d<c(x), g>/dx                   autograd, and torch.nn.grad
    2. <c(x), y> = <x, ct(y)>                  the definition of the adjoint
    3. ct(g) = conv(stuffed g, flipped filters) Zeiler & Fergus 2013, arXiv:1311.2901, section 2.1
    4. ct(c(x)) = x                            only if W^T W = I: not to be expected
    5. the spectrum of W                       what an inverse would need

Example:
    >>> from torch import nn
    >>> report = check(nn.Conv2d(3, 4, 3, padding=1), (6, 6), spectrum=True)
    >>> report.passed, report.rank
    (True, 108)
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from captum_deconv.adjoint.geometry import (
    FLOATING,
    SUPPORTED,
    Geometry,
    applies_its_weight,
    describe,
    read_weight,
    require_supported,
)
from captum_deconv.adjoint.references import (
    convolve_flipped,
    count_ulps,
    differentiate,
    differentiate_functionally,
    measure_error,
)
from captum_deconv.adjoint.report import AdjointReport
from captum_deconv.adjoint.spectrum import (
    linear_operator,
    measure_spectrum,
    solve_least_squares,
)
from captum_deconv.adjoint.transposition import linear_part, transpose_of

_MOST_ROUNDING = 0.05


@torch.inference_mode(False)  # under inference mode there would be no gradient to compare with
def check(
    module: nn.Module,
    input_size: Sequence[int],
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    batch_size: int = 1,
    memory_format: torch.memory_format = torch.contiguous_format,
    seed: int = 0,
    transpose: Callable[[nn.Module, tuple[int, ...]], Callable[[Tensor], Tensor]] = transpose_of,
    flipped: bool = True,
    inverts: bool | None = None,
    spectrum: bool = False,
) -> AdjointReport:
    """Check the transpose of a layer, and measure how far it is from an inverse.

    The layer is copied to `dtype` and `device` and is itself neither run nor changed; the numbers
    come from a generator of their own.

    Args:
        module: An `nn.Conv`, `nn.ConvTranspose` or `nn.Linear`.
        input_size: The spatial size alone of its input, such as `(32, 32)`; `()` for `nn.Linear`.
        dtype: The type to compute in: float64, float32, float16 or bfloat16.
        device: Where to compute; the layer's own device if None.
        batch_size: Examples in the random input.
        memory_format: `torch.channels_last` (`channels_last_3d` is meant in 3-D) or contiguous.
        seed: Of the random input.
        transpose: What builds the transpose under test from the copied layer and its input size;
            pass your own to have it judged.
        flipped: Whether to run the check of the flipped filters too, the costly one at large
            strides.
        inverts: What is expected of `ct(c(x)) == x`: True or False make the other a failure, None
            accepts both.
        spectrum: Whether to measure singular values, rank and the least-squares reconstruction,
            always in float64.

    Returns:
        The report.

    Raises:
        TypeError: If the layer is not supported, lazy or quantised, a type is not one of the four,
            or the transpose returns another type, or on another device, than it is given.
        ValueError: If the size or the memory format does not fit the layer, or the batch is empty.
    """
    if dtype not in FLOATING:
        raise TypeError(f"dtype must be float64, float32, float16 or bfloat16, not {dtype}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    geometry = describe(module, input_size)
    place = torch.device(device) if device is not None else read_weight(module).device
    layout = _choose_layout(geometry, memory_format)
    layer = linear_part(module, dtype, place)
    if layout != torch.contiguous_format:
        layer = layer.to(memory_format=layout)
    x, g = _draw(geometry, batch_size, dtype, place, seed, layout)
    y, gradient = differentiate(layer, x, g)
    with torch.no_grad():
        candidate = transpose(layer, geometry.input_size)
        back = candidate(g)
        again = candidate(y)
    if (back.dtype, back.device) != (x.dtype, x.device):
        raise TypeError(
            f"the transpose returns {back.dtype} on {back.device}, not {x.dtype} on {x.device}"
        )
    unit = measure_rounding(geometry, dtype, place)
    tolerance, dot_tolerance = 4 * unit, 8 * unit

    relative_error = measure_error(back, gradient)
    functional = differentiate_functionally(layer, geometry, x, g)
    grad_error = None if functional is None else measure_error(back, functional)
    flip_error = None
    if flipped and geometry.kind != "linear":
        # For a transposed convolution it is the layer itself that has flipped filters.
        convolution = geometry.kind == "convolution"
        stuffed = convolve_flipped(layer, geometry, g if convolution else x)
        flip_error = measure_error(back if convolution else y, stuffed)
    dot_gap = _measure_dot_gap(x, y, g, back)
    residual, scaled_residual = _measure_residuals(x, again)
    # Rounding alone leaves this much of `x`; in bfloat16 the estimate for a large kernel is so wide
    # that it would take anything for an inverse.
    is_inverse = residual <= min(dot_tolerance, _MOST_ROUNDING)

    failures = []
    if back.shape != x.shape:
        failures.append(f"ct(g) has the shape {tuple(back.shape)}, the input {tuple(x.shape)}")
    limits = (
        ("autograd's input gradient", relative_error, tolerance),
        ("torch.nn.grad", grad_error, tolerance),
        ("flipped filters", flip_error, tolerance),
        ("the dot-product test", dot_gap, dot_tolerance),
    )
    for what, error, limit in limits:
        # Written so that a NaN fails.
        if error is not None and not error <= limit:
            failures.append(f"{what}: {error:.3g} is above the tolerance of {limit:.3g}")
    if inverts is not None and is_inverse != inverts:
        verb = "is" if is_inverse else "is not"
        failures.append(f"ct(c(x)) {verb} x: the residual is {residual:.3g}")

    return AdjointReport(
        layer=f"{type(module).__name__}({module.extra_repr()})",
        input_size=geometry.input_size,
        output_size=geometry.output_size,
        dtype=str(dtype).removeprefix("torch."),
        device=str(place),
        passed=not failures,
        failures=tuple(failures),
        relative_error=relative_error,
        bitwise=_is_bitwise(back, gradient),
        ulps=count_ulps(back, gradient),
        grad_error=grad_error,
        grad_bitwise=None if functional is None else _is_bitwise(back, functional),
        tolerance=tolerance,
        dot_gap=dot_gap,
        dot_tolerance=dot_tolerance,
        flip_error=flip_error,
        residual=residual,
        scaled_residual=scaled_residual,
        inverts=is_inverse,
        **(_measure_inverse(module, geometry, place, x, seed) if spectrum else {}),
    )


def layers(
    model: nn.Module, inputs: Tensor | tuple[Any, ...], **options: Any
) -> dict[str, AdjointReport]:
    """Check every convolution and linear layer of a model at the sizes that it really sees.

    The model runs once, in evaluation mode and without gradients; its modes, hooks, buffers and
    the global random state are the same afterwards. A layer that is lazy or not of a real floating
    point type is a TypeError, one that is given an empty batch a ValueError.

    Args:
        model: Any module, or a single layer.
        inputs: What it is called with: a tensor, or a tuple of its positional arguments.
        **options: Passed to `check`, such as `dtype` and `spectrum`.

    Returns:
        A report for each layer that ran, in the order of the run, by its dotted name (`""` for the
        model itself). A layer that ran at further sizes has further entries, such as
        `"head@14x14"`. Layers whose class replaces the forward pass are left out with a warning.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    seen: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}
    skipped: list[str] = []
    handles = []

    def record(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = given[0] if given else named["input"]
            if x.numel() == 0:
                raise ValueError(
                    f"layer {name!r} is given an empty input of shape {tuple(x.shape)}: use a "
                    f"batch of at least one example"
                )
            linear = isinstance(module, nn.Linear)
            size = () if linear else tuple(x.shape[-len(module.kernel_size) :])  # type: ignore[arg-type]  # a tuple on every convolution
            if name not in seen or seen[name][1] == size:
                seen[name] = (module, size)
            else:
                seen[f"{name}@{'x'.join(str(n) for n in size)}"] = (module, size)

        return hook

    modes = {part: part.training for part in model.modules()}
    devices = sorted({t.get_device() for t in arguments if isinstance(t, Tensor) and t.is_cuda})
    try:
        for name, part in model.named_modules():
            if isinstance(part, LazyModuleMixin):
                # Running it would give it a weight, and change the model.
                require_supported(part)
            elif isinstance(part, SUPPORTED) and applies_its_weight(part):
                handles.append(part.register_forward_pre_hook(record(name), with_kwargs=True))
            elif isinstance(part, SUPPORTED):
                skipped.append(name)
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices):
            model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes.items():
            part.training = mode
    if skipped:
        warnings.warn(
            f"not checked, because their class replaces the forward pass: {', '.join(skipped)}",
            stacklevel=2,
        )
    return {name: check(part, size, **options) for name, (part, size) in seen.items()}


def measure_rounding(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> float:
    """Estimate the relative rounding error of a product with `W` or `W^T`.

    A sum of `K` terms with independent rounding errors of mean zero is off by about
    `sqrt(K) eps` of its own size, and by more than `lambda` times that with a probability of
    `2 exp(-lambda^2 / 2)` (Higham & Mary 2019, doi:10.1137/18M1226312, theorem 2.4); the worst case
    `K eps` of the textbooks would let a wrong transpose pass in half precision. `check` allows
    `lambda = 4` for norms, which concentrate, and 8 for the single number of the dot-product test.

    Half-precision products are summed in float32, but the scattered sum over the kernel's taps
    that implements a transposed convolution on the CPU is rounded to the type at each step. TF32
    rounds the factors to 10 bits and sums in float32.

    Args:
        geometry: The layer, for its reduction length.
        dtype: The type of the numbers.
        device: Where they are multiplied.

    Returns:
        The estimate.
    """
    accumulate = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    # The dot products themselves are summed in pairs, in float64.
    pairs = torch.finfo(torch.float64).eps * math.sqrt(math.log2(max(2, *geometry.shape)))
    unit = accumulate * math.sqrt(geometry.reduction) + pairs
    if dtype in (torch.float16, torch.bfloat16):
        unit += torch.finfo(dtype).eps * math.sqrt(max(1, geometry.taps))
    elif dtype == torch.float32 and device.type == "cuda" and _allows_tf32(geometry):
        unit += 2.0**-10
    return unit


def _allows_tf32(geometry: Geometry) -> bool:
    backend: Any = torch.backends.cuda.matmul if geometry.kind == "linear" else torch.backends.cudnn
    try:
        return bool(backend.allow_tf32)
    except RuntimeError:  # the newer switch, fp32_precision, was used instead of this one
        # It has a level for convolutions below the one for all of cuDNN.
        level = backend if geometry.kind == "linear" else backend.conv
        return str(level.fp32_precision) == "tf32"


def _choose_layout(geometry: Geometry, memory_format: torch.memory_format) -> torch.memory_format:
    if memory_format == torch.contiguous_format:
        return memory_format
    layouts = {2: torch.channels_last, 3: torch.channels_last_3d}
    axes = len(geometry.kernel)
    if memory_format not in layouts.values() or axes not in layouts:
        raise ValueError(
            f"{memory_format} does not fit a layer with {axes} spatial axes: use channels_last in "
            f"2-D or 3-D, contiguous_format otherwise"
        )
    return layouts[axes]


def _draw(
    geometry: Geometry,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    layout: torch.memory_format,
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, g = (
        torch.randn((batch_size, *shape), generator=generator, device=device, dtype=wide).to(
            dtype, memory_format=layout
        )
        for shape in (geometry.input_shape, geometry.output_shape)
    )
    return x, g


def _is_bitwise(actual: Tensor, expected: Tensor) -> bool:
    return actual.shape == expected.shape and torch.equal(actual, expected)


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


def _measure_dot_gap(x: Tensor, y: Tensor, g: Tensor, back: Tensor) -> float:
    if back.shape != x.shape:
        return math.inf
    gap = abs(_dot(y, g) - _dot(x, back))
    # <W x, g> of a standard normal g is normal with the deviation |W x|: the natural unit.
    size = math.sqrt(_dot(y, y))
    return gap / size if size else (0.0 if gap == 0.0 else math.inf)


def _measure_residuals(x: Tensor, again: Tensor) -> tuple[float, float]:
    if again.shape != x.shape:
        return math.inf, math.inf
    wide, returned = x.double(), again.double()
    size, energy = float(wide.norm()), _dot(returned, returned)
    factor = _dot(wide, returned) / energy if energy else 0.0
    return float((wide - returned).norm()) / size, float((wide - factor * returned).norm()) / size


def _measure_inverse(
    module: nn.Module, geometry: Geometry, device: torch.device, x: Tensor, seed: int
) -> dict[str, Any]:
    operator = linear_operator(module, geometry.input_size, device=device)
    found = measure_spectrum(module, geometry.input_size, operator=operator, seed=seed)
    image = x[0].double().flatten().cpu()
    solution, converged = solve_least_squares(operator, operator.matvec(image.numpy()))
    lost = float((image - torch.from_numpy(solution)).norm() / image.norm())
    columns = geometry.shape[1]
    return {
        "singular_max": found.largest,
        "singular_min": found.smallest,
        "rank": found.rank,
        "null_fraction": None if found.rank is None else 1 - found.rank / columns,
        "spectrum_method": found.method,
        "least_squares_residual": lost,
        "least_squares_converged": converged,
    }
