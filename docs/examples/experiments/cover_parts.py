"""
Cover a part of the image
=========================

Section 4.2, figure 7: a grey square slides over the image. Where the class's probability falls, the
class rests on what is covered; where the strongest feature map falls, that map looks at it.
"""

from captum_deconv import experiments
from captum_deconv.experiments.occlusion_figure import draw_occlusion
from captum_deconv.sources.datasets import read_photograph
from captum_deconv.sources.models import load_model

loaded = load_model("embedded")
image = loaded.preprocess(read_photograph("rocket"))
found = experiments.occlude(
    loaded.model, image, "relu4", target=loaded.categories.index("rocket"), size=50, stride=10
)
print(f"probability {found.whole[1]:.3f}, covered at worst {found.probability.min():.3f}")
figure = draw_occlusion(found, restore=loaded.restore, categories=loaded.categories)
figure.set_label("A rocket, and maps of what changes by the place of a grey square.")
