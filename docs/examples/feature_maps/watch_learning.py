"""
Watch feature maps being learned
================================

Figure 4 of the paper: the same channels at several moments of training, each by its one strongest
activation at that moment. The embedded network has kept six.
"""

from captum_deconv.gallery import evolution
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import PhotographTiles

tiles = PhotographTiles(64, embedded.prepare_tile(), names=("coffee", "rocket", "text"))
models = {step: embedded.load_checkpoint(step) for step in embedded.list_checkpoints()}
history = evolution(models, "relu2", tiles, channels=range(12))
figure = history.figure()
figure.set_label("Twelve channels of relu2 at six steps of training: from noise to strokes.")
