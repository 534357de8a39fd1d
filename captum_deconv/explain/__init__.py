"""One question about one photograph.

In reading order: ``question`` (as it is typed), ``answer`` (from a network and an image to
attributions), ``results`` (what was found, and the file that keeps it), ``figure`` (its picture).
"""
