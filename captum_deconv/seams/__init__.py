"""Where other libraries meet this one; each is optional, and asked for by an extra.

In reading order: ``quantus`` (a method as its metrics call it), ``tensorboard`` (attributions as
pictures of a ``SummaryWriter``), ``lightning`` (the same while a model is trained). Without the
library each says what to install when it is asked for; nothing here is imported by the rest.
"""
