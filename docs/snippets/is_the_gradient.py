"""Is the transposed convolution the way back of the gradient? Yes, exactly."""

import torch
from torch import nn

torch.manual_seed(0)
image = torch.rand(1, 1, 5, 5, requires_grad=True)

conv = nn.Conv2d(1, 1, kernel_size=2, bias=False)
transpose = nn.ConvTranspose2d(1, 1, kernel_size=2, bias=False)
transpose.weight = conv.weight

output = conv(image)
output.retain_grad()  # kept for leaves only, unless asked for
output.square().sum().backward()

with torch.no_grad():
    again = transpose(output.grad)

print("the same shape: ", again.shape == image.grad.shape)
print("the same values:", torch.allclose(again, image.grad))
print("largest difference:", (again - image.grad).abs().max().item())
