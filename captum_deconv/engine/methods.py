"""A method as it is asked for: its rule, what the rule applies to, and whom to tell of the rest."""

from collections.abc import Sequence

from torch import Tensor

from captum_deconv.engine import rectifiers
from captum_deconv.engine.coverage import Activations, Guard, Uncovered
from captum_deconv.engine.rules import rule_of


class Method:
    """One of the three methods.

    Args:
        method: ``"input_gradient"``, ``"guided_backprop"`` or ``"deconvnet"``.
        activations: The families that the rule overrides: ``"relu"`` (ReLU, ReLU6, and clamps,
            thresholds and maxima at zero), ``"leaky"`` (adds LeakyReLU, PReLU and RReLU) or
            ``"all"`` (adds ELU, SELU, CELU, GELU, SiLU, Mish, Softplus and Hardswish, for which no
            paper defines a rule).
        uncovered: What to do about activations and opaque nodes that keep their ordinary gradient:
            ``"warn"`` once per object, ``"raise"`` :class:`RectifierCoverageError`, or
            ``"ignore"``.

    Raises:
        ValueError: If one of the three is unknown.
    """

    def __init__(
        self,
        method: str = "input_gradient",
        *,
        activations: Activations = "relu",
        uncovered: Uncovered = "warn",
    ) -> None:
        self.method = method
        self.rule = rule_of(method)
        self.activations = activations
        self.guard = Guard(uncovered)
        if activations not in rectifiers.FAMILIES:
            raise ValueError(
                f"unknown activations {activations!r}: choose from {', '.join(rectifiers.FAMILIES)}"
            )

    def examine(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], *, whole: bool = False
    ) -> rectifiers.Survey:
        """Find the rectifiers that the rule overrides, and report what it misses.

        Without a rule there is nothing to find.
        """
        if self.rule is None:
            return rectifiers.Survey((), (), ())
        survey = rectifiers.survey(outputs, inputs, self.activations)
        self.guard.check_survey(survey, whole=whole)
        return survey


def prepare_methods(
    names: Sequence[str], activations: Activations, uncovered: Uncovered
) -> list[Method]:
    """Make several methods for one graph, which tell of what they miss only once."""
    methods = [Method(name, activations=activations, uncovered=uncovered) for name in names]
    for method in methods:
        method.guard = methods[0].guard
    return methods
