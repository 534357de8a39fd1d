"""One image as one method explains it, to give to a metric."""

import torch

from captum_deconv.comparison.cases import Case
from captum_deconv.comparison.methods import METHODS
from captum_deconv.comparison.randomising import Randomised


def make_case(spot, image, method="input_gradient", attribution=None):
    case = Case(
        model=spot,
        randomised=Randomised(spot, 3, 0),
        method=METHODS[method],
        image=image[None],
        target=int(spot(image[None]).argmax()),
        layer="conv2",
        box=None,
        key=(0, "0"),
    )
    if attribution is not None:
        case.__dict__["attribution"] = attribution
    return case


class Bright(torch.nn.Module):
    """Says in which quarter pixels are brighter than any of a blurred image."""

    def forward(self, x):
        bright = torch.nn.functional.relu(x.mean(1, keepdim=True) - 1.2)
        return 60 * torch.nn.functional.adaptive_avg_pool2d(bright, 2).flatten(1)
