r"""What a check of a layer found.

Example:
    >>> from torch import nn
    >>> from captum_deconv.adjoint import check
    >>> check(nn.Linear(3, 2), ()).to_dict()["passed"]
    True
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class AdjointReport:
    """What `check` found; print it, or take `to_dict` or `to_json`.

    `c` is the layer without its bias, `W` its matrix, `ct` the transpose under test, `g` and `x`
    are seeded standard normal. Errors are norms of differences over the norm of the reference,
    computed in float64.

    Attributes:
        layer: The layer, as torch prints it.
        input_size: The spatial size of its input.
        output_size: The spatial size of its output.
        dtype: The type of the computation, such as `"float64"`.
        device: Where it ran, such as `"cpu"`.
        passed: Whether nothing failed.
        failures: A sentence for each thing that did.
        relative_error: `ct(g)` against autograd's input gradient; infinite if the shape is wrong.
        bitwise: Whether these two are the same to the last bit.
        ulps: The largest distance of two of their values in units in the last place; None if the
            shape is wrong. Where terms cancel many units are a small error.
        grad_error: `ct(g)` against `torch.nn.grad.conv*_input`; None where torch has none.
        grad_bitwise: Whether these two are the same to the last bit.
        tolerance: What these errors may be, from the type and the reduction length.
        dot_gap: `|<W x, y> - <x, ct(y)>|` over `|W x|`, its size for a random `y`.
        dot_tolerance: What it may be.
        flip_error: `ct(g)` against the convolution of the zero-stuffed map with flipped filters and
            swapped channel axes; None where not asked for or without spatial axes.
        residual: `|x - ct(c(x))| / |x|`.
        scaled_residual: The same after the best scalar factor: `min_a |x - a ct(c(x))| / |x|`.
        inverts: Whether `ct(c(x))` is `x` up to rounding.
        singular_max: The largest singular value of `W`; this and all below are None where no
            spectrum was asked for.
        singular_min: The smallest of the `min(rows, columns)` singular values; None where Lanczos
            did not converge.
        rank: The rank of `W`; None where it cannot be told without a decomposition.
        null_fraction: The fraction of the input space that `W` throws away, `1 - rank / columns`.
        spectrum_method: `"dense"` or `"lanczos"`.
        least_squares_residual: `|x - pinv(W) W x| / |x|`, the residual of the best that any linear
            way back can do.
        least_squares_converged: Whether LSMR converged; if not, that residual is an upper bound.
    """

    layer: str
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    dtype: str
    device: str
    passed: bool
    failures: tuple[str, ...]
    relative_error: float
    bitwise: bool
    ulps: int | None
    grad_error: float | None
    grad_bitwise: bool | None
    tolerance: float
    dot_gap: float
    dot_tolerance: float
    flip_error: float | None
    residual: float
    scaled_residual: float
    inverts: bool
    singular_max: float | None = None
    singular_min: float | None = None
    rank: int | None = None
    null_fraction: float | None = None
    spectrum_method: str | None = None
    least_squares_residual: float | None = None
    least_squares_converged: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON takes them: lists, and None for what is not finite."""
        found = asdict(self)
        for name, value in found.items():
            if isinstance(value, tuple):
                found[name] = list(value)
            elif isinstance(value, float) and not math.isfinite(value):
                found[name] = None
        return found

    def to_json(self, indent: int | None = None) -> str:
        """Return the fields as a JSON object.

        Args:
            indent: As `json.dumps` has it.

        Returns:
            The text; what is not finite is null.
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        sizes = f"{_size(self.input_size)} -> {_size(self.output_size)}"
        bits = "bit for bit" if self.bitwise else f"not bitwise, at most {self.ulps} ulps"
        rows = [
            ("ct(g) against autograd", f"{self.relative_error:.2e}", bits),
            ("ct(g) against torch.nn.grad", _number(self.grad_error), _bits(self.grad_bitwise)),
            ("ct(g) against flipped filters", _number(self.flip_error), ""),
            ("  tolerance of the three", f"{self.tolerance:.2e}", ""),
            ("<Wx, y> - <x, ct(y)>", f"{self.dot_gap:.2e}", f"tolerance {self.dot_tolerance:.2e}"),
            (
                "|x - ct(c(x))| / |x|",
                f"{self.residual:.3g}",
                "ct inverts c" if self.inverts else "ct does not invert c",
            ),
            ("  after the best factor", f"{self.scaled_residual:.3g}", ""),
        ]
        if self.singular_max is not None:
            lost = "unknown" if self.null_fraction is None else f"{self.null_fraction:.1%}"
            note = "" if self.least_squares_converged else "LSMR did not converge: an upper bound"
            rows += [
                ("  by least squares instead", _number(self.least_squares_residual), note),
                ("largest singular value", _number(self.singular_max), self.spectrum_method or ""),
                ("smallest singular value", _number(self.singular_min), ""),
                ("rank", "unknown" if self.rank is None else str(self.rank), f"null space {lost}"),
            ]
        lines = [
            f"{self.layer}",
            f"  {sizes}, {self.dtype} on {self.device}: {verdict}",
            *(f"  {label:<32}{value:>10}  {note}".rstrip() for label, value, note in rows),
            *(f"  failed: {failure}" for failure in self.failures),
        ]
        return "\n".join(lines)


def _size(size: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in size) or "()"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _bits(same: bool | None) -> str:
    return "" if same is None else "bit for bit" if same else "not bitwise"
