"""Hooks that come and go while other threads give the same module theirs."""

import sys

import pytest
import torch
from torch import nn

from captum_deconv.engine import hooks


@pytest.mark.parametrize("before", [False, True])
def test_a_hook_of_another_threads_between_two_lines(before):
    layer, called, others = nn.ReLU(), [], []
    hook = hooks.Hook(layer, lambda *_: called.append(1), before)

    def meddle(frame, event, _):
        if frame.f_code.co_filename != hooks.__file__:
            return None
        if event == "line":  # where a thread may be put aside, and another run
            others.append(layer.register_forward_pre_hook(lambda *_: None))
            others.append(layer.register_forward_hook(lambda *_: None))
        return meddle

    tracer = sys.gettrace()
    sys.settrace(meddle)
    try:
        with hooks.hooked(hook):
            sys.settrace(None)
            layer(torch.ones(1))
            sys.settrace(meddle)
    finally:
        sys.settrace(tracer)
    assert called == [1]
    for handle in others:
        handle.remove()
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
