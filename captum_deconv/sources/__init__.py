"""What to look into and at: networks, weights, photographs, data sets.

In reading order: ``names`` (what to say of one that is not known), ``images`` (a file as upright
RGB), ``datasets`` (folders and packaged photographs), ``weights`` (fetched, read without executing
pickled code, hashed), ``embedded`` (the small trained network that comes along, its weights in
``data/``), ``models`` (a network by name, ready for a photograph).
"""
