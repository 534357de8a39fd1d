"""Which layers an atlas shows: named, by patterns, or chosen for what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from captum_deconv.gallery.atlas.network import Network
from captum_deconv.sources.names import suggest

AUTO = "auto"
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Choice:
    """A layer, and why it was chosen."""

    name: str
    why: str


def choose_layers(model: nn.Module, network: Network, layers: str | Sequence[str]) -> list[Choice]:
    """Choose layers.

    Args:
        model: The network.
        network: What a pass through it told.
        layers: ``"auto"``: each rectifier's output that is a map, in forward order, and of blocks
            that repeat one another at one size the last one's. Or dotted names, or patterns of them
            such as ``layer?.*.relu``.

    Returns:
        The layers in forward order.

    Raises:
        ValueError: If a name or pattern is no layer's, or nothing is left to choose.
    """
    if layers == AUTO:
        return _choose(model, network)
    wanted = [layers] if isinstance(layers, str) else list(layers)
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    why: dict[str, str] = {}
    for text in wanted:
        named = [text] if text in known else [name for name in known if fnmatchcase(name, text)]
        shown = [name for name in named if name in network.outputs]
        if not named:
            raise ValueError(f"the model has no layer like {text!r}{suggest(text, known)}")
        if not shown:
            raise ValueError(
                f"{text!r} gives no activations in channels (N, C, ...): name layers that run in "
                "the forward pass and return one tensor"
            )
        for name in shown:
            why.setdefault(name, "asked for" if name == text else f"like {text}")
    if not why:
        raise ValueError('layers is empty: name some, or give "auto"')
    return [Choice(name, why[name]) for name in network.outputs if name in why]


def _choose(model: nn.Module, network: Network) -> list[Choice]:
    families = {output.rectified for output in network.outputs.values()}
    accepted = ("relu",) if "relu" in families else ("leaky", "smooth")
    by_node: dict[object, list[str]] = {}
    for name, output in network.outputs.items():
        if output.rectified in accepted and max(output.shape[2:], default=1) > 1:
            by_node.setdefault(output.node, []).append(name)
    stages: dict[object, list[tuple[str, str]]] = {}
    for names in by_node.values():
        block = _find_block(model, names[0])
        around = network.outputs.get(block)
        key: object = names[0]
        if around is not None:
            key = block.rpartition(".")[0], type(model.get_submodule(block)), around.shape
        # What only passes it on, as a padding of nothing does, has no part in it.
        outermost = [name for name in names if f"{names[0]}.".startswith(f"{name}.")][-1]
        stages.setdefault(key, []).append((outermost, block))
    if not stages:
        raise ValueError(
            'layers="auto" finds no rectifier whose output is a map: name the layers to show, see '
            "model.named_modules()"
        )
    return [Choice(found[-1][0], _say_why(model, found)) for found in stages.values()]


def _say_why(model: nn.Module, stage: Sequence[tuple[str, str]]) -> str:
    blocks = list(dict.fromkeys(block for _, block in stage if block))
    if not blocks:
        return "a rectifier's output"
    kind = type(model.get_submodule(blocks[-1])).__name__
    if len(blocks) == 1:
        return f"the last rectifier's output in its block ({kind})"
    return f"the last rectifier's output of {len(blocks)} repeated blocks ({kind})"


def _find_block(model: nn.Module, name: str) -> str:
    """Return the outermost module around a name whose kind is there again beside it, or nothing."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        parent, block = model.get_submodule(".".join(parts[: depth - 1])), ".".join(parts[:depth])
        module = model.get_submodule(block)
        alike = [child for child in parent.children() if type(child) is type(module)]
        if len(alike) > 1 and type(module) not in _CONTAINERS and any(module.children()):
            return block
    return ""
