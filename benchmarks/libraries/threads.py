"""Eight threads, a library's methods, one network: how many results are wrong.

Every thread asks with images of its own; the reference is the oracle's, made before. The network is
one that every library can do: a rectifier module of its own after each convolution.
"""

import threading
import warnings
from collections.abc import Iterator
from itertools import count
from typing import Any

import oracle
import torch
from libraries.exactness import EXACT, relative_error, shorten
from libraries.peers import Peer
from libraries.traps import Small, Trap

THREADS, CALLS, QUICK_CALLS = 8, 500, 40
JOIN_SECONDS = 120


def run(library: Peer, _: list[str], quick: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield what came of the calls, and of one call of each method alone after them."""
    if library.methods:
        yield "calls", count_wrong(library, QUICK_CALLS if quick else CALLS)


def count_wrong(library: Peer, calls: int) -> dict[str, Any]:
    """Return how many of the calls were wrong, how many raised, and how many alone afterwards."""
    torch.manual_seed(0)
    model = Small().eval()
    images = torch.randn(THREADS, 1, 3, 32, 32)
    methods = library.methods
    traps = [Trap(model, (image,), model) for image in images]
    targets = [int(model(image).argmax()) for image in images]
    references = [
        {method: oracle.input_attribution(model, trap.inputs, target, method) for method in methods}
        for trap, target in zip(traps, targets, strict=True)
    ]
    numbers, outcomes = count(), []

    def ask(thread: int) -> None:
        while (number := next(numbers)) < calls:
            outcomes.append(ask_once(thread, methods[number % len(methods)]))

    def ask_once(thread: int, method: str) -> str:
        try:
            inputs = (images[thread].clone(),)
            found = library.attribute(method, model, inputs, targets[thread])
            error = relative_error(found, references[thread][method])
        except Exception as problem:
            return shorten(f"{type(problem).__name__}: {problem}")
        return "right" if error < EXACT else "wrong"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(JOIN_SECONDS)
        alone = [ask_once(0, method) for method in methods]
    raised = [text for text in outcomes if text not in ("right", "wrong")]
    return {
        "methods": list(methods),
        "calls": calls,
        "unfinished": calls - len(outcomes),
        "wrong": outcomes.count("wrong"),
        "raised": len(raised),
        "exception": raised[0] if raised else None,
        "wrong or raised alone afterwards": sum(text != "right" for text in alone),
    }
