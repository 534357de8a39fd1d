"""One map back through a strided convolution, in three ways."""

import torch
import torch.nn.functional as F
from torch import nn

from captum_deconv import adjoint

torch.manual_seed(0)
conv = nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1, bias=False).double()
signal = torch.randn(1, 8, 16, 16, dtype=torch.float64)

# 1. The transposed convolution.
transposed = adjoint.transpose_of(conv, (32, 32))(signal)

# 2. The matrix, transposed.
product = adjoint.matrix(conv, (32, 32)).T @ signal.flatten().numpy()

# 3. Zeros between the values, filters flipped in both directions, channel axes swapped.
stuffed = torch.zeros(1, 8, 32, 32, dtype=torch.float64)
stuffed[:, :, ::2, ::2] = signal
flipped = F.conv2d(stuffed, conv.weight.flip(2, 3).transpose(0, 1), padding=1)

for way_back in (torch.from_numpy(product).reshape(1, 3, 32, 32), flipped):
    print(f"{(way_back - transposed).norm() / transposed.norm():.0e}")
