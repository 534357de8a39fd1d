"""
Tell classes apart: guided Grad-CAM
===================================

In a deep network guided backprop draws the same picture for every class. Grad-CAM knows the class,
but only roughly the place; guided Grad-CAM multiplies the two. A cat above a cup:
"""

import torch
from PIL import Image

from captum_deconv import GuidedBackprop, GuidedGradCam
from captum_deconv.explain.figure import Row, plot_attributions
from captum_deconv.sources.datasets import read_photograph
from captum_deconv.sources.models import load_model

both = Image.new("RGB", (448, 448))
both.paste(read_photograph("chelsea").crop((0, 38, 450, 263)).resize((448, 224)))
both.paste(read_photograph("coffee").crop((0, 50, 600, 350)).resize((448, 224)), (0, 224))

loaded = load_model("efficientnet-lite0")
images = loaded.preprocess(both)[None]
guided = GuidedBackprop(loaded.model)
cam = GuidedGradCam(loaded.model, "_conv_head")

rows, found = [], []
for name in ("tiger cat", "espresso"):
    target = loaded.categories.index(name)
    attributions = {
        "guided_backprop": guided.attribute(images, target)[0],
        "guided_gradcam": cam.attribute(images, target)[0],
    }
    found.append(attributions)
    rows.append(Row(loaded.restore(images[0]), attributions, name))
figure = plot_attributions(rows)
figure.set_label(
    "Guided backprop is the same for cat and cup; guided Grad-CAM shows each where it is."
)

# %%
# How alike are the two rows?

for method in found[0]:
    one, other = (each[method].flatten() for each in found)
    print(f"{method}: cosine {torch.cosine_similarity(one, other, dim=0):.2f}")
