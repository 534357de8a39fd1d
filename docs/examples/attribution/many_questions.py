"""
Ask many questions of one image
===============================

``attribute_each`` runs the model once and goes back once for each target. Here the three likeliest
classes of a photograph.
"""

from captum_deconv import InputGradient
from captum_deconv.explain.figure import Row, plot_attributions
from captum_deconv.sources.datasets import read_photograph
from captum_deconv.sources.models import load_model

loaded = load_model("efficientnet-lite0")
images = loaded.preprocess(read_photograph("rocket"))[None]
likeliest = loaded.model(images)[0].softmax(0).topk(3)

answers = {}
each = InputGradient(loaded.model).attribute_each(images, targets=likeliest.indices.tolist())
for probability, index, found in zip(likeliest.values, likeliest.indices, each, strict=True):
    answers[f"{loaded.categories[index]} ({probability:.2f})"] = found[0]
figure = plot_attributions([Row(loaded.restore(images[0]), answers, "Input gradient")])
figure.set_label("A rocket, and the input gradient of each of its three likeliest classes.")
