"""A question as it is typed: which classes or neurons, of which layer, by which methods."""

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

_MOST_NEURONS = 10**6  # more than any layer has; a range up to a typing error fills no memory

Place = tuple[int, ...]


class QuestionError(ValueError):
    """A question that contradicts itself or cannot be read."""


@dataclass(frozen=True)
class Question:
    """What is to be attributed, and how.

    ``target`` is ``auto`` (the strongest class), ``topN``, a class's number or name; ``neuron``, of
    the layer named ``layer``, is ``strongest``, a channel, ``FIRST-LAST`` or ``CHANNEL:Y:X``.
    Either may be several of these with commas between; with a neuron there is no target.
    ``methods`` may hold ``all``: the three rules, and Guided Grad-CAM where a layer is given and no
    neuron. ``activations`` and ``uncovered`` go to the engine.

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
            parse_neurons(self.neuron)
        elif self.layer is None and GRADCAM in self.methods:
            raise QuestionError(f"{GRADCAM} needs a convolutional layer: add --layer PATH")
        elif self.layer is not None and not {"all", GRADCAM} & set(self.methods):
            raise QuestionError(
                "a layer needs a neuron (--neuron strongest, or --neuron CHANNEL[:Y:X]) or "
                f"--method {GRADCAM}"
            )

    def count(self) -> int:
        """Count the answers for each photograph; a class that is named twice counts twice."""
        if self.neuron is not None:
            return len(parse_neurons(self.neuron))
        strongest = _count_strongest(self.target)
        return len((self.target or "").split(",")) if strongest is None else strongest

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


def parse_neurons(text: str) -> list[tuple[int | None, Place]]:
    """Read neurons as they are written on the command line.

    Args:
        text: ``strongest``, ``CHANNEL``, ``FIRST-LAST`` or ``CHANNEL:Y:X``, or several of these
            with commas between.

    Returns:
        Of each, once, in the order written, the channel, None for the strongest one, and the
        place, empty for the strongest one.

    Raises:
        QuestionError: If it is written otherwise, or a range is of a million channels or more.
    """
    found: list[tuple[int | None, Place]] = []
    for part in (part.strip() for part in text.split(",")):
        channels = re.fullmatch(r"(\d+)\s*-\s*(\d+)", part)
        place = re.fullmatch(r"-?\d+(:-?\d+)*", part)
        if part.lower() == "strongest":
            found.append((None, ()))
        elif channels and int(channels[1]) <= int(channels[2]) < _MOST_NEURONS:
            found += ((number, ()) for number in range(int(channels[1]), int(channels[2]) + 1))
        elif place:
            channel, *rest = map(int, part.split(":"))
            found.append((channel, tuple(rest)))
        else:
            raise QuestionError(
                "a neuron is `strongest`, CHANNEL, a range such as 0-15, or CHANNEL:Y:X, and "
                f"several have commas between them; not {part!r}"
            )
    return list(dict.fromkeys(found))


def find_targets(text: str | None, categories: list[str] | None, scores: Tensor) -> list[int]:
    """Find the classes that are meant.

    Args:
        text: What ``find_target`` takes, several of that with commas between, or ``topN`` for the N
            classes with the largest scores.
        categories: As for ``find_target``.
        scores: As for ``find_target``.

    Returns:
        Their numbers, each once, in the order written, or from the largest score down.

    Raises:
        IndexError: If there is no class of a number, or there are not as many.
        UnknownNameError: If no class, or more than one, has a name.
    """
    count = _count_strongest(text)
    if count is not None:
        if not 1 <= count <= scores.numel():
            raise IndexError(
                f"target {text!r} is out of range: there are {scores.numel()} classes, so top1 to "
                f"top{scores.numel()}"
            )
        return [int(index) for index in scores.topk(count).indices]
    names = [name.lower() for name in categories or ()]
    if text is None or text.lower() in names:  # a name may hold a comma
        return [find_target(text, categories, scores)]
    parts = (part.strip() for part in text.split(","))
    return list(dict.fromkeys(find_target(part, categories, scores) for part in parts))


def _count_strongest(text: str | None) -> int | None:
    found = re.fullmatch(r"top(\d+)", (text or "").strip().lower())
    return int(found[1]) if found else None


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
