"""Does the transposed convolution give the image back? No: its shape, other values."""

import torch
from torch import nn

torch.manual_seed(0)
image = torch.rand(1, 1, 10, 10)

conv = nn.Conv2d(1, 1, kernel_size=2, bias=False)
transpose = nn.ConvTranspose2d(1, 1, kernel_size=2, bias=False)
transpose.weight = conv.weight  # the same filter

with torch.no_grad():
    again = transpose(conv(image))

print("the same shape: ", again.shape == image.shape)
print("the same values:", torch.allclose(again, image))
near = torch.isclose(again, image, atol=1e-3)  # a truth value for each pixel
print("pixels within 1e-3 of the image:", int(near.sum()))
