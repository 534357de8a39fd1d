"""Every convolution in turn."""

import pytest
import torch
from convolutions import LAYERS

# torch says once that it pads a copy; on which test that falls is of no interest.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

# Sums of at most a few hundred terms of size one: rounding errors stay far below, mistakes far
# above.


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def case(request):
    make, size = request.param
    torch.manual_seed(0)
    return make().double(), size
