"""A question as it is typed: which class or neuron, of which layer, by which methods."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captum_deconv.sources.names import UnknownNameError, suggest

if TYPE_CHECKING:
    from torch import Tensor

    from captum_deconv.engine.coverage import Activations, Uncovered

METHODS = ("input_gradient", "guided_backprop", "deconvnet")
GRADCAM = "guided_gradcam"


class QuestionError(ValueError):
    """A question that contradicts itself or cannot be read."""


@dataclass(frozen=True)
class Question:
    """What is to be attributed, and how.

    ``target`` is ``auto`` (the strongest class), a class's number or its name; ``neuron``, of the
    layer named ``layer``, is ``strongest``, a channel, or ``CHANNEL:Y:X``. With a neuron there is
    no target. ``methods`` may hold ``all``: the three rules, and Guided Grad-CAM where a layer is
    given without a neuron. ``activations`` and ``uncovered`` go to the engine.

    Raises:
        QuestionError: If the parts do not go together.
    """

    methods: tuple[str, ...] = ("all",)
    target: str | None = None
    layer: str | None = None
    neuron: str | None = None
    activations: Activations = "relu"
    uncovered: Uncovered = "warn"

    def __post_init__(self) -> None:
        if self.neuron is not None:
            if self.layer is None:
                raise QuestionError("a neuron needs its layer: add --layer PATH")
            if self.target is not None:
                raise QuestionError("a target and a neuron exclude each other: give one of them")
            if GRADCAM in self.methods:
                raise QuestionError(
                    f"{GRADCAM} explains a target, not a neuron: leave --neuron out"
                )
            parse_neuron(self.neuron)
        elif self.layer is None and GRADCAM in self.methods:
            raise QuestionError(f"{GRADCAM} needs a convolutional layer: add --layer PATH")
        elif self.layer is not None and not {"all", GRADCAM} & set(self.methods):
            raise QuestionError(
                "a layer needs a neuron (--neuron strongest, or --neuron CHANNEL[:Y:X]) or "
                f"--method {GRADCAM}"
            )

    def list_methods(self) -> list[str]:
        """List the methods with ``all`` spelled out.

        Returns:
            Their names, each once, in the order asked for.
        """
        names: list[str] = []
        for method in self.methods:
            names += METHODS if method == "all" else (method,)
            if method == "all" and self.layer is not None and self.neuron is None:
                names.append(GRADCAM)
        return list(dict.fromkeys(names))


def parse_neuron(text: str) -> tuple[int | None, tuple[int, ...]]:
    """Read a neuron as it is written on the command line.

    Args:
        text: ``strongest``, ``CHANNEL``, or ``CHANNEL:Y:X``.

    Returns:
        The channel, None for the strongest one, and the place, empty for the strongest one.

    Raises:
        QuestionError: If it is written otherwise.
    """
    if text.lower() == "strongest":
        return None, ()
    try:
        channel, *place = (int(part) for part in text.split(":"))
    except ValueError:
        raise QuestionError(
            f"a neuron is `strongest`, CHANNEL or CHANNEL:Y:X, not {text!r}"
        ) from None
    return channel, tuple(place)


def find_target(text: str | None, categories: list[str] | None, scores: Tensor) -> int:
    """Find the class that is meant by a number or a name.

    Args:
        text: None or ``auto`` for the class with the largest score, a number (negative ones count
            from the end), or a name: the whole of it, a word of it or any part of it that only one
            class has, in capitals or not.
        categories: The classes' names, None where they have none.
        scores: The network's output for one image, ``(classes,)``.

    Returns:
        The class's number.

    Raises:
        IndexError: If there is no class of this number.
        UnknownNameError: If no class, or more than one, has this name.
    """
    count = scores.numel()
    if text is None or text.lower() == "auto":
        return int(scores.argmax())
    try:
        index = int(text)
    except ValueError:
        pass
    else:
        if not -count <= index < count:
            raise IndexError(f"target {index} is out of range: the classes are 0 to {count - 1}")
        return index % count
    if categories is None:
        raise UnknownNameError(
            f"no label {text!r}: this network's classes have no names, give a number"
        )
    names = [name.lower() for name in categories[:count]]
    word = text.lower()
    # The beginning of a name is no better than any other part: "cat" is no catamaran.
    for pattern in (rf"\A{re.escape(word)}\Z", rf"\b{re.escape(word)}\b", re.escape(word)):
        found = [number for number, name in enumerate(names) if re.search(pattern, name)]
        if len(found) == 1:
            return found[0]
        if found:
            few = ", ".join(f"{number} {categories[number]}" for number in found[:5])
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise UnknownNameError(f"label {text!r} fits several classes: {few}{more}")
    raise UnknownNameError(f"no label {text!r}{suggest(word, names)}")
