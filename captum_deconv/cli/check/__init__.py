"""``check``: is the transpose of a convolution its gradient, and is it an inverse?

What is checked and how is :mod:`captum_deconv.adjoint`'s part. Here, in reading order, ``command``
is what is typed; ``subjects`` makes a layer of a text, and gives a network an input of the right
shape; ``reports`` makes of what was found a table or a file, and ``figure`` a picture.
"""
