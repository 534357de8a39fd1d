"""
Ask whether parts correspond
============================

Section 4.3: nobody tells a network that faces have eyes. Mask the same part in several faces; if
the changes of the features are more alike than by masks at random places, it knows of the part.
"""

from PIL import Image
from skimage import data

from captum_deconv import experiments
from captum_deconv.experiments.correspondence_figure import draw_correspondence
from captum_deconv.sources.models import load_model

loaded = load_model("efficientnet-lite0")
pixels = (255 * data.lfw_subset()).astype("uint8")
faces = {f"face {n}": Image.fromarray(pixels[n]).convert("RGB") for n in (1, 2, 3, 6)}
boxes = {
    "left eye": dict.fromkeys(faces, (6, 3, 11, 9)),
    "mouth": dict.fromkeys(faces, (16, 6, 21, 15)),
}
found = experiments.correspond(
    loaded.model, loaded.preprocess, faces, boxes, ["_blocks.4._swish"], draws=2
)
figure = draw_correspondence(found, faces, boxes)
figure.set_label("Four faces with their masked parts, and how alike the changes are by part.")
