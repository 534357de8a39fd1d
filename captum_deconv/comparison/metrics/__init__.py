"""What is asked of a method, each a small function from a case to numbers, with its source.

In reading order: ``similarity`` (of two maps), ``sanity`` (does it need what the network learned?),
``classes`` (does it need the class? what of it is the start signal's?), ``convergence`` (where on
the way down is the class lost?), ``faithfulness`` (do the pixels it names matter to the output?),
``localisation`` (does it name the object's?), ``complexity`` (how many does it name?), ``registry``
(all of them by name).
"""
