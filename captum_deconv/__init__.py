"""Exact, drop-in deconvnet, guided backprop and input gradient for Captum and PyTorch.

The names load when they are first used: Captum loads matplotlib's pyplot when it is imported, and
``import captum_deconv`` alone should not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_deconv.attribution import (
        Deconvnet,
        Deconvolution,
        GuidedBackprop,
        GuidedGradCam,
        InputGradient,
        LayerDeconvnet,
        LayerGradient,
        LayerGuidedBackprop,
        NeuronDeconvnet,
        NeuronGradient,
        NeuronGuidedBackprop,
    )
    from captum_deconv.collection import Collection, collect
    from captum_deconv.engine.coverage import (
        Coverage,
        RectifierCoverageError,
        RectifierCoverageWarning,
        coverage,
    )
    from captum_deconv.engine.gradients import compare, compare_each, gradient_func, strongest

_HOMES = {
    "attribution": (
        *("InputGradient", "GuidedBackprop", "Deconvnet", "Deconvolution"),
        *("NeuronGradient", "NeuronGuidedBackprop", "NeuronDeconvnet"),
        *("LayerGradient", "LayerGuidedBackprop", "LayerDeconvnet", "GuidedGradCam"),
    ),
    "collection": ("Collection", "collect"),
    "engine.gradients": ("compare", "compare_each", "gradient_func", "strongest"),
    "engine.coverage": (
        "Coverage",
        "RectifierCoverageError",
        "RectifierCoverageWarning",
        "coverage",
    ),
}

__all__ = [
    "Collection",
    "Coverage",
    "Deconvnet",
    "Deconvolution",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputGradient",
    "LayerDeconvnet",
    "LayerGradient",
    "LayerGuidedBackprop",
    "NeuronDeconvnet",
    "NeuronGradient",
    "NeuronGuidedBackprop",
    "RectifierCoverageError",
    "RectifierCoverageWarning",
    "collect",
    "compare",
    "compare_each",
    "coverage",
    "gradient_func",
    "strongest",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
