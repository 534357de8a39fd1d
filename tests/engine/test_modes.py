"""The modes of a pass: control flow as Python, and an interrupt at any line leaves nothing set."""

import functools
import itertools
import sys

import oracle
import pytest
import torch
from interrupts import Interrupt
from snapshot import Snapshot
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.overrides import (
    BaseTorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)

from captum_deconv import Deconvnet, GuidedBackprop, InputGradient, LayerDeconvnet, coverage
from captum_deconv.engine import modes


def test_torch_cond_is_an_if(images):
    def branching(x, plainly):
        above, below = (lambda a: torch.relu(a) * 2), (lambda a: torch.relu(a - 1))
        positive = x.sum() > 0
        if plainly:
            return (above if positive else below)(x).flatten(1).sum(1)
        return torch.cond(positive, above, below, (x,)).flatten(1).sum(1)

    for sign in (1, -1):
        x = images.abs() * sign + images / 3
        assert coverage(lambda x: branching(x, False), x).complete
        for cls in (InputGradient, GuidedBackprop, Deconvnet):
            ours = cls(lambda x: branching(x, False)).attribute(x)
            assert torch.equal(ours, cls(lambda x: branching(x, True)).attribute(x))


def test_torch_cond_inside_torch_cond(images):
    def inner(a):
        return torch.cond(a.max() > 1, torch.relu, torch.neg, (a,))

    def nested(x):
        return torch.cond(x.sum() > -1e9, inner, torch.abs, (x,)).flatten(1).sum(1)

    assert images.max() > 1
    assert torch.equal(Deconvnet(nested).attribute(images), torch.ones_like(images))


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_while_loop_and_map_are_loops(images):
    from torch._higher_order_ops.map import map as map_rows
    from torch._higher_order_ops.while_loop import while_loop

    def step(i, a):
        return i + 1, torch.relu(a) * 1.5 - 0.1

    def looping(x):
        return while_loop(lambda i, a: i < 3, step, (torch.tensor(0), x))[1].flatten(1).sum(1)

    def looped(x):
        for _ in range(3):
            x = torch.relu(x) * 1.5 - 0.1
        return x.flatten(1).sum(1)

    def mapping(x):
        return map_rows(lambda row, weight: torch.relu(row * weight), x, torch.tensor(2.0))

    for cls in (InputGradient, GuidedBackprop, Deconvnet):
        assert torch.equal(cls(looping).attribute(images), cls(looped).attribute(images))
        mapped = cls(lambda x: mapping(x).flatten(1).sum(1)).attribute(images)
        assert torch.equal(
            mapped, cls(lambda x: (torch.relu(x * 2)).flatten(1).sum(1)).attribute(images)
        )


def test_the_first_use_of_torch_cond_in_a_process_is_exact_too():
    program = """
import sys, torch
from captum_deconv import Deconvnet
assert "torch._dynamo" not in sys.modules
def branching(x):
    return torch.cond(x.sum() > 0, torch.relu, torch.neg, (x,)).sum(1)
x = torch.tensor([[-1.0, 3.0]])
assert Deconvnet(branching, uncovered="raise").attribute(x).tolist() == [[1.0, 1.0]]
"""
    import subprocess

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]


FILES = ("captum_deconv/engine/modes.py", "torch/_dynamo/decorators.py")


def test_an_interrupt_at_any_line_leaves_no_mode_set():
    """Every line of entering and leaving, again and again: 5,000 interrupts."""
    import torch._dynamo

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    x = torch.ones(2, 2)
    snapshot = Snapshot(model)

    def call():
        modes.differentiably(model, lambda held: model[1].running_mean.add_(1))

    whole = Interrupt(files=FILES)
    whole.run(call)
    assert len(whole.places) > 60, "the lines are not seen"
    interrupted = 0
    for at in itertools.islice(itertools.cycle(range(1, len(whole.places) + 1)), 5000):
        interrupted += Interrupt(at, FILES).run(call, snapshot.assert_unchanged)
    assert interrupted > 4900
    assert InputGradient(model.eval()).attribute(x, 0) is not None


def test_the_stance_is_the_callers_own_again_when_the_last_pass_lets_go():
    from torch._dynamo import eval_frame

    stance = modes._EagerStance()
    first, second = modes._Token(), modes._Token()
    with torch.compiler.set_stance("eager_on_recompile"):
        before = eval_frame._stance
        for _ in range(2):
            stance.hold(first)
            stance.hold(second)
            for _ in range(2):  # the second time changes nothing
                stance.let_go(first)
                assert eval_frame._stance.stance == "force_eager"
            for _ in range(2):
                stance.let_go(second)
                assert eval_frame._stance is before


def test_a_pass_that_was_torn_down_holds_the_stance_no_longer():
    from torch._dynamo import eval_frame

    stance, kept, torn = modes._EagerStance(), modes._Token(), modes._Token()
    before = eval_frame._stance
    stance.hold(torn)
    stance.hold(kept)
    del torn
    stance.let_go(kept)
    assert eval_frame._stance is before


def test_buffers_are_as_the_first_pass_found_them_when_the_last_lets_go():
    norm, buffers = nn.BatchNorm1d(2), modes._KeptBuffers()
    mean, variance = norm.running_mean, norm.running_var
    kept = [(norm, "running_mean", mean), (norm, "running_var", variance)]
    first, second = modes._Token(), modes._Token()
    for start in (0.0, 5.0):  # whatever the user's values are by now
        mean.fill_(start)
        variance.fill_(start + 1)
        buffers.hold(first, kept)
        mean.add_(1)
        buffers.hold(second, kept)
        variance.add_(1)
        norm.running_mean = torch.full((2,), 9.0)
        versions = mean._version, variance._version
        for _ in range(2):
            buffers.let_go(first, kept)
            assert norm.running_mean is mean
            assert mean.tolist() == [start + 1] * 2
            assert variance.tolist() == [start + 2] * 2
        for _ in range(2):
            buffers.let_go(second, kept)
            assert mean.tolist() == [start] * 2
            assert variance.tolist() == [start + 1] * 2
        assert (mean._version, variance._version) == versions
    assert not buffers._values
    assert not buffers._users


SOMEWHERE = nn.Sequential(nn.Linear(2, 2), nn.ReLU())


def test_the_modules_behind_a_callable_are_found_once_each():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    for function in (
        model,
        model.forward,
        functools.partial(functools.partial(model.forward)),
        lambda x: model(x)[0],
        lambda x: model(x) + model[1](x),
        functools.partial(lambda x, by: model(x) * by, by=2),
    ):
        assert list(modes.modules_of(function)) == list(model.modules())
    assert list(modes.modules_of(lambda x: SOMEWHERE(x))) == list(SOMEWHERE.modules())
    both = modes.modules_of(lambda x: SOMEWHERE(model(x)))
    assert set(both) == {*model.modules(), *SOMEWHERE.modules()}
    for function in (torch.relu, lambda x: x, functools.partial(torch.clamp, min=0)):
        assert list(modes.modules_of(function)) == []


def test_loops_take_what_does_not_change_along():
    found = modes._run_while_loop(
        lambda i, a, by, last: i < last, lambda i, a, by, last: [i + 1, a * by], [0, 1.0], (2.0, 3)
    )
    assert found == (3, 8.0)


def test_rows_are_mapped_and_stacked_as_they_are_returned():
    def double(a, b, by):
        return {"sum": a + b, "both": (a * by, [b])}

    rows = torch.arange(3.0)
    for count in (1, 3):
        found = modes._run_map(double, (rows[:count], -rows[:count]), (5.0,))
        expected = double(rows[:count], -rows[:count], 5.0)
        assert found.keys() == expected.keys()
        assert torch.equal(found["sum"], expected["sum"])
        assert torch.equal(found["both"][0], expected["both"][0])
        assert torch.equal(found["both"][1][0], expected["both"][1][0])
    with pytest.raises(ValueError):
        modes._run_map(double, (rows, rows[:2]), (5.0,))
    parts = iter([[rows], [rows, rows]])
    with pytest.raises(ValueError):
        modes._run_map(lambda _: next(parts), (rows[:2],), ())


def test_a_mode_that_was_torn_away_takes_no_other_with_it():
    """As an interrupt leaves the stack while torch runs what the mode stands before."""
    theirs, own, above = (BaseTorchFunctionMode() for _ in range(3))
    with theirs:
        with modes.under(own):
            _pop_mode()
        assert _get_current_function_mode_stack() == [theirs]
        with modes.under(own):
            _push_mode(above)
        assert _get_current_function_mode_stack() == [theirs]
        held = modes.Pass(torch.relu)
        try:
            held.begin()
            _pop_mode()
            _push_mode(own)
        finally:
            held.end()
        assert _get_current_function_mode_stack() == [theirs]


def test_a_second_pass_begins_with_the_buffers_of_the_first(images):
    """A spectral norm that is trained would make it compute something else."""

    class Sharing(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.same = nn.Identity()
            self.conv = spectral_norm(nn.Conv2d(3, 5, 3))

        def forward(self, x):
            return self.conv(self.same(x * 2).relu_()).mean((2, 3))

    model, images = Sharing().double(), images.double()
    snapshot = Snapshot(model, images)
    found = LayerDeconvnet(model, "same").attribute(images, 1)
    snapshot.assert_unchanged()
    expected = oracle.layer_attribution(model, model.same, images, 1, "deconvnet")
    assert found.abs().max() > 0
    assert torch.equal(found, expected)
