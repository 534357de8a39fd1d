"""
Find out what is wrong with a network
=====================================

Section 4.1: they saw dead features and aliasing in their pictures, and mended the network. Here
that is measured.
"""

from captum_deconv import experiments
from captum_deconv.experiments.diagnosis_figure import draw_diagnosis
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import PhotographTiles

tiles = PhotographTiles(64, embedded.prepare_tile(), names=("coffee", "rocket", "motorcycle"))
found = experiments.diagnose(embedded.load(), tiles)
for finding in found.findings:
    print(f"{finding.fault}, {finding.layer}: {finding.sentence}")
figure = draw_diagnosis(found)
figure.set_label(
    "The first layer's filters and their spectrum; the faults of each layer's channels."
)
