"""
Explain a network that returns a dictionary
===========================================

Segmenters return dictionaries, Hugging Face's models dataclasses. ``output=`` says which tensor is
meant, by a key or by a function.
"""

import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from captum_deconv import InputGradient

model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

pixel = InputGradient(model, output="out").attribute(images, target=(15, 32, 32))
print("of class 15 in the pixel (32, 32):", tuple(pixel.shape))


def count_person(outputs):
    """Return how much of the image is class 15."""
    return outputs["out"].mean(dim=(2, 3))


share = InputGradient(model, output=count_person).attribute(images, target=15)
print("of class 15 in the whole image:", tuple(share.shape))

# %%
# Left out, the error says what there is.

try:
    InputGradient(model).attribute(images, target=15)
except TypeError as error:
    print(error)
