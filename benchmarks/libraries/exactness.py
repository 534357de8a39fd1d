"""How far each library is from the independent reference, on one network.

The reference (``tests/helpers/oracle.py``) replaces each rectifier call by the papers' equations,
as a custom ``autograd.Function``. An error is ``max|a - b| / max|b|`` over all inputs, with ``b``
the reference. The target is the likeliest class.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import oracle
import torch
from libraries.peers import METHODS, CannotError, Peer
from libraries.state import Kept
from libraries.traps import PLAIN, TRAPS, Trap, build_trap
from parts.builders import build, list_builders
from torch import Tensor

EXACT = 1e-6
"""An error below this is rounding."""

Cell = dict[str, Any]


def list_networks() -> list[str]:
    """Return the names of all that is measured: the traps, and torchvision's classifiers."""
    kinds = list_builders()
    return [*TRAPS, *(name for name, kind in kinds.items() if kind == "classification")]


def measure(library: Peer, name: str) -> dict[str, Cell]:
    """Measure a library's methods on a network.

    Args:
        library: With any number of the methods.
        name: One of ``list_networks()``.

    Returns:
        For each method a cell: ``"cannot"``; or ``"error"``; or ``"raised"``, the exception's text.
        ``"warned"`` is what the library said of this network that it does not say of a plain one.
        Where the library is not exact, ``"again"`` is what another documented way gives.
    """
    build_one = (lambda: build_trap(name)) if name in TRAPS else _keep(name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trap = build_one()
        target = choose_target(trap)
        references = {
            method: oracle.input_attribution(trap.eager, trap.inputs, target, method)
            for method in METHODS
        }
    usual = read_texts(said)
    cells = {}
    for method in METHODS:
        if method not in library.methods:
            cells[method] = {"cannot": True}
            continue
        known = usual | _said_of_a_plain_network(library, method)
        cell = attempt(library.attribute, method, build_one(), target, references[method], known)
        if is_wrong(cell):
            again = attempt(library.again, method, build_one(), target, references[method], known)
            cell["again"] = again
        cells[method] = cell
    return cells


def choose_target(trap: Trap) -> int:
    """Return the likeliest class."""
    with torch.no_grad():
        return int(trap.eager(*trap.inputs).argmax())


def is_wrong(cell: Cell) -> bool:
    """Tell whether a cell condemns its library."""
    return "raised" in cell or not (cell.get("error") is None or cell["error"] < EXACT)


def attempt(
    call: Callable[..., Any],
    method: str,
    trap: Trap,
    target: int,
    reference: tuple[Tensor, ...],
    known: set[str],
) -> Cell:
    """Return a cell of one call."""
    cell: Cell = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            inputs = tuple(tensor.clone() for tensor in trap.inputs)
            cell["error"] = relative_error(call(method, trap.model, inputs, target), reference)
        except CannotError:
            cell["cannot"] = True
        except Exception as error:
            cell["raised"] = shorten(f"{type(error).__name__}: {error}")
    news = read_texts(said) - known
    if news:
        cell["warned"] = shorten(sorted(news)[0])
    return cell


def relative_error(actual: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> float:
    """Return ``max|a - b| / max|b|``; what is not finite is infinitely wrong."""
    shapes = [[tuple(part.shape) for part in parts] for parts in (actual, reference)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"what is returned has shapes {shapes[0]} for inputs {shapes[1]}")
    joined = [torch.cat([part.flatten().double() for part in p]) for p in (actual, reference)]
    error = oracle.relative_error(*joined)
    return error if error == error else float("inf")


def read_texts(said: list[warnings.WarningMessage]) -> set[str]:
    """Return what warnings say, whatever the numbers in them."""
    return {re.sub(r"\d+", "#", str(warning.message)) for warning in said}


def shorten(text: str) -> str:
    """Return the first line, without what changes from run to run."""
    lines = text.strip().splitlines() or [""]
    return re.sub(r"0x[0-9a-f]+|(/[\w.-]+){2,}", "…", lines[0])[:160]


_PLAIN_WARNINGS: dict[tuple[str, str], set[str]] = {}


def _said_of_a_plain_network(library: Peer, method: str) -> set[str]:
    key = type(library).__name__, method
    if key not in _PLAIN_WARNINGS:
        trap = build_trap(PLAIN)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            inputs = tuple(tensor.clone() for tensor in trap.inputs)
            library.attribute(method, trap.model, inputs, choose_target(trap))
        _PLAIN_WARNINGS[key] = read_texts(said)
    return _PLAIN_WARNINGS[key]


def _keep(name: str) -> Callable[[], Trap]:
    """Return a function that gives torchvision's network as it was, and builds it only once."""
    specimen = build(name)
    kept = Kept(specimen.network)

    def restore() -> Trap:
        kept.restore()
        return Trap(specimen.network, specimen.inputs, specimen.network)

    return restore


def run(library: Peer, names: list[str]) -> Iterator[tuple[str, dict[str, Cell]]]:
    """Yield each network's cells."""
    for name in names:
        yield name, measure(library, name)
