"""Signed values as colours, figures saved, files written whole or not at all.

``colours`` turns attributions into pixels, ``figures`` writes a figure, ``files`` replaces a file.
Nothing here imports torch, so that a wrong argument is answered without waiting for it.
"""
