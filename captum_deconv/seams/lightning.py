"""How attributions change while Lightning trains: a callback that logs those of a fixed batch.

from lightning.pytorch import Trainer
from captum_deconv.seams.lightning import LogAttributions

trainer = Trainer(callbacks=[LogAttributions(images, every_n_steps=200, target=labels)])
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError(
        "LogAttributions is for Lightning, which is not installed: pip install "
        "'captum-deconv[lightning]'"
    ) from error

from captum_deconv.engine._captum import Target
from captum_deconv.engine.coverage import Activations, Uncovered
from captum_deconv.engine.gradients import compare
from captum_deconv.engine.lean import Memory
from captum_deconv.engine.methods import prepare_methods
from captum_deconv.engine.rules import RULES
from captum_deconv.engine.structures import Choice
from captum_deconv.seams.tensorboard import Style, add_attributions, to_pictures

Log = Callable[[dict[str, Tensor], int], None]


class LogAttributions(Callback):
    """Logs attributions of a fixed batch at the start of the training, and every N steps.

    They are computed in evaluation mode, at the trainer's precision, on the first process. The
    training goes on as without them, bit for bit: the modules' modes, gradients, buffers and
    torch's random numbers are put back. Models whose parameters are spread over processes (FSDP,
    DeepSpeed) are not supported.

    They go to every logger that takes images: TensorBoard's, by its ``add_images``, and those with
    a ``log_image``, such as Weights & Biases'. Of others (``CSVLogger``) a warning says once that
    they take none; where there is no logger left, nothing is computed.

    Args:
        batch: What to attribute to, ``(N, C, H, W)``; a copy of it is kept.
        every_n_steps: How many steps of the optimiser lie between two of them.
        methods: Names among ``"input_gradient"``, ``"guided_backprop"`` and ``"deconvnet"``.
        target: The class to explain, an int or one for each example, as for
            :func:`captum_deconv.compare`.
        tag: What the images are called: ``tag/method``.
        style: As for :func:`captum_deconv.seams.tensorboard.to_pictures`.
        output: As for :func:`captum_deconv.compare`.
        memory: As for :func:`captum_deconv.compare`.
        activations: As for :func:`captum_deconv.compare`.
        uncovered: As for :func:`captum_deconv.compare`.

    Raises:
        TypeError: If the batch is not one tensor.
        ValueError: If the batch is of another shape, ``every_n_steps`` not positive, a method or an
            option unknown, or no method given.
    """

    def __init__(
        self,
        batch: Tensor,
        every_n_steps: int = 100,
        methods: Sequence[str] = tuple(RULES),
        target: Target = None,
        *,
        tag: str = "attributions",
        style: Style = "colour",
        output: Choice = None,
        memory: Memory = "light",
        activations: Activations = "relu",
        uncovered: Uncovered = "warn",
    ) -> None:
        if not isinstance(batch, Tensor):
            raise TypeError(f"the batch is one tensor (N, C, H, W), not a {type(batch).__name__}")
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is a positive number, not {every_n_steps}")
        if isinstance(methods, str) or not methods:
            raise ValueError(f"methods must be a sequence of names from {', '.join(RULES)}")
        prepare_methods(methods, activations, uncovered)
        to_pictures(batch, style)
        self.batch = batch.detach().clone()
        self.every_n_steps = every_n_steps
        self.methods = tuple(methods)
        self.target = target
        self.tag = tag
        self.style = style
        self._how: Any = {
            "output": output,
            "memory": memory,
            "activations": activations,
            "uncovered": uncovered,
        }
        self._logs: list[Log] = []
        self._logged = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the loggers that take images, and log the first."""
        self._logs = self._find_logs(trainer) if trainer.is_global_zero else []
        self._logged = -1
        self._log_if_due(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log, if another N steps are done."""
        self._log_if_due(trainer, pl_module)

    def _log_if_due(self, trainer: Trainer, model: LightningModule) -> None:
        # Several batches may make one step, and one batch several.
        due = trainer.global_step // self.every_n_steps
        if not self._logs or due == self._logged:
            return
        self._logged = due
        precision = trainer.precision_plugin
        inputs = precision.convert_input(self.batch.to(model.device))
        with _undisturbed(model), precision.forward_context():
            found = compare(model, inputs, self.target, methods=self.methods, **self._how)
        for log in self._logs:
            log(found, trainer.global_step)

    def _find_logs(self, trainer: Trainer) -> list[Log]:
        logs: list[Log] = []
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logs.append(self._make_image_log(logger))
                continue
            writer = getattr(logger, "experiment", None)
            if hasattr(writer, "add_images"):
                logs.append(self._make_writer_log(writer))
            else:
                _warn(f"{type(logger).__name__} takes no images")
        if not trainer.loggers:
            _warn("the trainer has no logger")
        return logs

    def _make_writer_log(self, writer: Any) -> Log:
        return lambda found, step: add_attributions(writer, self.tag, found, step, style=self.style)

    def _make_image_log(self, logger: Any) -> Log:
        def log(found: dict[str, Tensor], step: int) -> None:
            for method, attribution in found.items():
                images = list(to_pictures(attribution, self.style))
                logger.log_image(key=f"{self.tag}/{method}", images=images, step=step)

        return log


def _warn(what: str) -> None:
    warnings.warn(
        f"LogAttributions: {what}, so no attributions are logged there; use a TensorBoardLogger "
        "(pip install 'captum-deconv[lightning]') or a WandbLogger",
        stacklevel=3,
    )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Have the model in evaluation mode, and put back afterwards all that a pass may change.

    The flags are set one by one: ``train()`` may be overridden, to keep parts frozen.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in modules
        for name, buffer in module._buffers.items()
    ]
    gpus = {tensor.get_device() for tensor in model.parameters() if tensor.is_cuda}
    try:
        with torch.random.fork_rng(devices=list(gpus)):
            for module in modules:
                module.training = False
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for module, name, buffer, before in buffers:
            module._buffers[name] = buffer
            if buffer is not None and before is not None:
                # By its data, whose version stays.
                buffer.data.copy_(before)
