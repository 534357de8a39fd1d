"""A training that is looked at goes on as one that is not, to the bit; and what the loggers get."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from snapshot import Snapshot
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from captum_deconv import compare
from captum_deconv.seams.lightning import LogAttributions
from captum_deconv.seams.tensorboard import to_pictures

pytestmark = [
    # Lightning's own advice, and torch's on Lightning's own calls.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated"),
]


class Restless(nn.Module):
    """Draws random numbers and counts its calls, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("sum", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.sum = self.sum + torch.rand(())
        return x + 0.01 * torch.randn_like(x)


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), Restless(), nn.Dropout(0.5)),
            *(nn.Flatten(), nn.Linear(6 * 36, 4)),
        )
        self.frozen = nn.BatchNorm2d(3).eval()

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        return self.body(self.frozen(x))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _generator():
    with torch.random.fork_rng(devices=[]):
        yield


def train(folder, callbacks=(), logger=False, steps=6, **how):
    torch.manual_seed(0)
    net = Net()
    labels = torch.arange(16) % 4
    loader = DataLoader(TensorDataset(torch.randn(16, 3, 8, 8), labels), batch_size=4)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        logger=logger,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **how,
    )
    trainer.fit(net, loader)
    return net, trainer


def take_state(net, trainer):
    (optimizer,) = trainer.optimizers
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    return [*net.state_dict().values(), *momenta, torch.get_rng_state()]


class Disturber(Callback):
    """Looks at the network as one would at first: nothing is put back."""

    def __init__(self, images):
        self.images = images

    def on_train_batch_end(self, trainer, pl_module, *_):
        pl_module(self.images)


def read_events(logger):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    return {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]}


def test_the_training_goes_on_as_without(tmp_path, images):
    alone = take_state(*train(tmp_path))
    watch = LogAttributions(images, every_n_steps=1, target=[0, 3])
    watched = take_state(*train(tmp_path, [watch], TensorBoardLogger(tmp_path)))
    assert len(alone) == len(watched) > 8
    assert all(map(torch.equal, alone, watched))
    disturbed = take_state(*train(tmp_path, [Disturber(images)]))
    assert not all(map(torch.equal, alone, disturbed))


class Check(Callback):
    """Takes a snapshot before the callback after it, and compares after it."""

    def __init__(self, images):
        self.images = images
        self.snapshots = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.rng = torch.get_rng_state()
        self.snapshot = Snapshot(pl_module, self.images)

    def assert_unchanged(self):
        self.snapshot.assert_unchanged()
        assert torch.equal(torch.get_rng_state(), self.rng)
        self.snapshots.append(self.snapshot)


def test_nothing_of_the_model_is_touched(tmp_path, images):
    check = Check(images)

    class After(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            assert pl_module.training
            assert not pl_module.frozen.training
            check.assert_unchanged()

    watch = LogAttributions(images, every_n_steps=2, target=0)
    train(tmp_path, [check, watch, After()], TensorBoardLogger(tmp_path), steps=4)
    assert len(check.snapshots) == 4


def test_tensorboard_has_the_start_and_every_n_steps(tmp_path, images):
    logger = TensorBoardLogger(tmp_path)
    watch = LogAttributions(images, every_n_steps=3, methods=["deconvnet"], target=1, tag="seen")
    train(tmp_path, [watch], logger, steps=7)
    assert read_events(logger) == {"seen/deconvnet": [0, 3, 6]}


def test_steps_are_the_optimisers(tmp_path, images):
    logger = TensorBoardLogger(tmp_path)
    watch = LogAttributions(images, every_n_steps=2, target=1)
    train(tmp_path, [watch], logger, steps=4, accumulate_grad_batches=2)
    assert set(map(tuple, read_events(logger).values())) == {(0, 2, 4)}


class ImageLogger(CSVLogger):
    """A logger with ``log_image``, as Weights & Biases' has it."""

    def __init__(self, folder):
        super().__init__(folder)
        self.images = []

    def log_image(self, key, images, step=None):
        self.images.append((key, images, step))


def test_a_logger_with_log_image_gets_what_compare_returns(tmp_path, images):
    logger = ImageLogger(tmp_path)
    given = images.clone()
    watch = LogAttributions(given, every_n_steps=100, target=[2, 0], style="magnitude")
    given.zero_()  # the callback's is a copy
    net, _ = train(tmp_path, [watch], logger, steps=1)
    torch.manual_seed(0)
    fresh = Net().eval()
    fresh.body[3] = nn.Identity()  # after its noise comes no rectifier, so it changes no gradient
    expected = compare(fresh, images, [2, 0])
    assert [(key, step) for key, _, step in logger.images] == [
        (f"attributions/{method}", 0) for method in expected
    ]
    for (_, drawn, _), attribution in zip(logger.images, expected.values(), strict=True):
        pictures = to_pictures(attribution, "magnitude")
        assert isinstance(drawn, list)
        assert drawn[0].shape == (8, 8, 3)
        assert np.array_equal(np.stack(drawn), pictures)
        assert len(np.unique(pictures)) > 9
    assert net.training


@pytest.mark.parametrize("logger", [CSVLogger, None])
def test_loggers_without_images_are_told_of_once(tmp_path, images, logger, monkeypatch):
    monkeypatch.setattr("captum_deconv.seams.lightning.compare", None)  # nothing is computed
    watch = LogAttributions(images, every_n_steps=1, target=0)
    with pytest.warns(UserWarning, match="LogAttributions") as caught:
        train(tmp_path, [watch], logger(tmp_path) if logger else False)
    (said,) = [str(each.message) for each in caught if "LogAttributions" in str(each.message)]
    assert ("CSVLogger takes no images" if logger else "no logger") in said
    assert "TensorBoardLogger" in said


def test_one_logger_of_two_takes_images(tmp_path, images):
    logger = TensorBoardLogger(tmp_path / "board")
    watch = LogAttributions(images, every_n_steps=5, target=0)
    with pytest.warns(UserWarning, match="CSVLogger takes no images"):
        train(tmp_path, [watch], [CSVLogger(tmp_path / "csv"), logger], steps=1)
    assert len(read_events(logger)) == 3


@pytest.mark.parametrize(
    ("precision", "seen"),
    [
        ("32-true", (torch.float32, False)),
        ("bf16-true", (torch.bfloat16, False)),
        ("bf16-mixed", (torch.float32, True)),
        ("64-true", (torch.float64, False)),
    ],
)
def test_the_trainers_precision(tmp_path, images, monkeypatch, precision, seen):
    found = []

    def spy(model, inputs, *args, **how):
        found.append((inputs.dtype, torch.is_autocast_enabled("cpu")))
        return compare(model, inputs, *args, **how)

    monkeypatch.setattr("captum_deconv.seams.lightning.compare", spy)
    logger = TensorBoardLogger(tmp_path)
    watch = LogAttributions(images, every_n_steps=1, target=0)
    train(tmp_path, [watch], logger, steps=1, precision=precision)
    assert found == [seen, seen]
    assert set(map(tuple, read_events(logger).values())) == {(0, 1)}


def test_an_error_puts_everything_back(tmp_path, images):
    watch = LogAttributions(images, every_n_steps=1, target=99)
    check = Check(images)
    check.on_train_start = lambda trainer, net: check.on_train_batch_end(trainer, net)
    with pytest.raises(IndexError):
        train(tmp_path, [check, watch], TensorBoardLogger(tmp_path))
    check.assert_unchanged()


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"batch": [1]}, TypeError, "list"),
        ({"batch": torch.zeros(3, 8, 8)}, ValueError, r"\(N, C, H, W\)"),
        ({"every_n_steps": 0}, ValueError, "every_n_steps"),
        ({"methods": ["guided"]}, ValueError, "guided_backprop"),
        ({"methods": "deconvnet"}, ValueError, "sequence"),
        ({"methods": []}, ValueError, "sequence"),
        ({"style": "color"}, ValueError, "magnitude"),
        ({"activations": "gelu"}, ValueError, "leaky"),
    ],
)
def test_what_cannot_be_meant(images, change, error, word):
    with pytest.raises(error, match=word):
        LogAttributions(**{"batch": images, **change})


def test_without_the_libraries():
    code = (
        "import sys\n"
        "for name in ('lightning', 'quantus', 'tensorboard', 'timm', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "import captum_deconv.seams.quantus, captum_deconv.seams.tensorboard\n"
        "import captum_deconv.cli, captum_deconv.sources.models\n"
        "try:\n"
        "    import captum_deconv.seams.lightning\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'captum-deconv[lightning]'" in done.stdout
