"""Ctrl-C at any moment of a call: model, tensors, modes and stance are as before."""

import pytest
from calls import CALLS, build_model, make_images
from interrupts import Interrupt
from snapshot import Snapshot
from torch.overrides import BaseTorchFunctionMode

pytestmark = pytest.mark.filterwarnings("ignore:Setting forward:UserWarning")


class Subject:
    """A model, images, and a call of them that is interrupted again and again."""

    def __init__(self, name):
        self.model, self.images = build_model(), make_images()
        self.call = lambda: CALLS[name](self.model, self.images)
        self.call()
        self.snapshot = Snapshot(self.model, self.images)

    def interrupt(self, moments, **how):
        """Interrupt the call at some of its moments, and look at what that left behind."""
        for at in moments:
            interrupt = Interrupt(at, **how)
            try:
                interrupted = interrupt.run(self.call, self.snapshot.assert_unchanged)
            except AssertionError as error:
                raise AssertionError(f"interrupted at {interrupt.describe()}: {error}") from None
            # What a call looked up the first time, it may know the next time.
            assert interrupted or len(interrupt.places) < at, "the interrupt was swallowed"

    def look(self, **how):
        interrupt = Interrupt(**how)
        assert not interrupt.run(self.call)
        return interrupt.places


def choose_moments(places):
    """Return one of each line's moments: which, differs from line to line."""
    by_place = {}
    for number, place in enumerate(places, 1):
        by_place.setdefault(place, []).append(number)
    return [moments[index % len(moments)] for index, moments in enumerate(by_place.values())]


OURS = ("/captum_deconv/", "/contextlib.py", "/torch/_dynamo/decorators.py")


@pytest.mark.parametrize("name", [n for n in CALLS if "," not in n or "lean" in n])
def test_at_each_line_of_the_package(name):
    subject = Subject(name)
    moments = choose_moments(subject.look(files=OURS))
    assert len(moments) > 200, "the lines are not seen"
    subject.interrupt(moments, files=OURS)


def test_a_mode_of_the_users_stays():
    """Torch takes it away for as long as it runs, and an interrupt may keep it from returning."""
    with BaseTorchFunctionMode():
        test_at_each_line_of_the_package("GuidedBackprop, lean")


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_at_each_line(name):
    """Of torch's and Captum's as well, and as often as it runs."""
    subject = Subject(name)
    subject.interrupt(range(1, len(subject.look()) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GuidedBackprop", "NeuronDeconvnet", "LayerGradient"])
def test_at_each_opcode(name):
    subject = Subject(name)
    moments = choose_moments(subject.look(files=OURS, opcodes=True))
    subject.interrupt(moments, files=OURS, opcodes=True)
