"""
Watch attributions while a network is trained
=============================================

``add_attributions`` writes what :func:`captum_deconv.compare` returns to TensorBoard; the Lightning
callback ``LogAttributions`` does it every so many steps of your own training. Here six moments of
the embedded network's, of which its first three layers were kept: a channel of the third.
"""

import tempfile

import matplotlib.pyplot as plt
from torch.utils.tensorboard import SummaryWriter

from captum_deconv import compare
from captum_deconv.seams.tensorboard import add_attributions, to_pictures
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import read_photograph

images = embedded.EmbeddedNetwork.preprocess(read_photograph("coffee"))[None]
steps = embedded.list_checkpoints()
figure, panels = plt.subplots(1, len(steps), figsize=(7, 1.5), layout="constrained")
with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
    for step, panel in zip(steps, panels, strict=True):
        model = embedded.load_checkpoint(step)
        found = compare(lambda x, model=model: model(x).mean(dim=(2, 3)), images, target=11)
        add_attributions(writer, "attributions", found, global_step=step)
        panel.imshow(to_pictures(found["guided_backprop"])[0])
        panel.set_title(f"step {step}", fontsize=8)
        panel.set_axis_off()
figure.set_label("What channel 11 goes by in a cup at six steps of training, by guided backprop.")
