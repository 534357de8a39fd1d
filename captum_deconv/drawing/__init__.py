"""Signed values as colours, figures and pages written, files whole or not at all.

``colours`` turns attributions into pixels, ``figures`` writes a figure, ``page`` a page of pictures
with a filter and a dialog, ``notebook`` what objects show in one, ``files`` replaces a file.
Importing them does not import torch, so that a wrong argument is answered without waiting for it.
"""
