"""What may be asked for by name, found out before anything is loaded.

Nothing here imports torch: a wrong name is answered at once.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

LITE = "efficientnet-lite0"
EMBEDDED = "embedded"
TIMM = "timm/"


class UnknownNameError(LookupError):
    """A name that means nothing here (a model, a layer, a label), with the closest that do."""


class ModelError(RuntimeError):
    """A network that cannot be built or used as asked; the message says what to do instead."""


class WeightsError(RuntimeError):
    """Weights that cannot be found, read or fitted; the message says where they may be given."""


def suggest(word: str, known: Sequence[str]) -> str:
    """Say which known words come close to an unknown one.

    Args:
        word: What was typed.
        known: What could have been meant.

    Returns:
        The end of a sentence: the closest words, or else the first few known ones.
    """
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    few = ", ".join(known[:5])
    return f"; there are {few}{', ...' if len(known) > 5 else ''}" if few else "; there are none"


def check_model(name: str) -> None:
    """Check the name of a network, as far as that can be told without loading one.

    Args:
        name: As for :func:`captum_deconv.sources.models.load_model`.

    Raises:
        UnknownNameError: If there is no network of this name.
        ModelError: If it is one that cannot be attributed.
    """
    if name.startswith(TIMM):
        _check_timm(name)
        return
    if ":" in name or name in (LITE, EMBEDDED):
        return
    known = list_torchvision_names()
    if known and name not in known:
        raise UnknownNameError(f"no model {name!r}{suggest(name, [LITE, EMBEDDED, *known])}")
    if name.startswith("quantized_"):
        raise ModelError(
            f"{name}: a quantised network has no gradients; use {name.removeprefix('quantized_')}"
        )
    if name.startswith("raft_"):
        raise ModelError(f"{name} takes pairs of images: attribute it in Python, with the classes")


@functools.cache
def list_torchvision_names() -> tuple[str, ...]:
    """List torchvision's networks from its source, in which each builder is marked as one.

    Returns:
        Their names, as ``torchvision.models.list_models()`` gives them, sorted; none where the
        source cannot be read.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return ()
    names = []
    for path in (Path(found.origin).parent / "models").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for given, builder in re.findall(_BUILDER, text):
            names.append(given or builder)
    return tuple(sorted(names))


_BUILDER = re.compile(
    r"""@register_model\((?:name="(\w+)")?\)\n(?:@.*\n|\s+.*\n|\)\n)*def (\w+)\("""
)


def _check_timm(name: str) -> None:
    if importlib.util.find_spec("timm") is None:
        raise ModelError(f"{name} needs the extra: pip install 'captum-deconv[timm]'")
    known = list_timm_names()
    # After a point may come the tag of certain weights, which only timm itself knows.
    if known and name.removeprefix(TIMM).partition(".")[0] not in known:
        raise UnknownNameError(f"no model {name!r}{suggest(name, [TIMM + one for one in known])}")


@functools.cache
def list_timm_names() -> tuple[str, ...]:
    """List timm's networks from its source, in which each builder is marked as one.

    Returns:
        Their names, as ``timm.list_models()`` gives them, sorted; none where the source cannot be
        read.
    """
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        return ()
    sources = (Path(found.origin).parent / "models").rglob("*.py")
    names = (re.findall(_TIMM_BUILDER, path.read_text(encoding="utf-8")) for path in sources)
    return tuple(sorted(name for names_of_file in names for name in names_of_file))


_TIMM_BUILDER = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


def check_weights(weights: str) -> None:
    """Check that weights given as a file are there.

    Args:
        weights: ``DEFAULT``, ``none`` or a file.

    Raises:
        WeightsError: If there is no such file.
    """
    if weights.upper() not in ("DEFAULT", "NONE") and not Path(weights).is_file():
        raise WeightsError(
            f"{weights}: no such weights file (--weights takes DEFAULT, none or a file)"
        )


_DEVICES = ("cpu", "cuda", "hpu", "meta", "mps", "mtia", "privateuseone", "xla", "xpu")


def check_device(name: str) -> None:
    """Check the name of a device, not whether there is one.

    Args:
        name: ``auto`` or a device's name in torch, such as ``cuda:1``.

    Raises:
        UnknownNameError: If this is no device's name.
    """
    kind, colon, number = name.partition(":")
    if name != "auto" and (kind not in _DEVICES or (colon and not number.isdecimal())):
        raise UnknownNameError(f"no device {name!r}; there are auto, cpu, cuda and cuda:N")
