"""A second device that needs no hardware: it computes on the CPU, and refuses to meet its tensors.

PyTorch's backend for out-of-tree devices ("PrivateUse1"), registered from Python under the name
``simulated``. Its tensors are made by DLPack: their memory is a CPU tensor's, and all that torch
knows of them says that it is not. Every operator without a kernel of its own comes to
:func:`_fallback`, which looks at where its tensors are, as CUDA does, and has it computed on the
CPU. Autograd runs the backward pass of such a device in a thread of its own, as CUDA's.

What makes the host wait for CUDA is counted, by :func:`count_waits`: a value read (``item``, a
condition), a copy to or from the host that is not ``non_blocking``, and a result whose size is a
matter of the values (``nonzero``, an index of bools).

:func:`install` is for the start of a process: autograd counts the devices once.
"""

import ctypes
import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, library

NAME = "simulated"
DEVICE = f"{NAME}:0"


def find_lack() -> str | None:
    """Say what torch lacks for such a device; None where it lacks nothing."""
    from torch.utils import backend_registration

    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return f"torch {torch.__version__} cannot register a device from Python"
    return None


class _Module:
    """What torch asks of ``torch.cuda``, and so of ``torch.simulated``."""

    @staticmethod
    def is_available() -> bool:
        return True

    is_initialized = is_available

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Its random numbers are the CPU's, which are seeded anyway."""

    @staticmethod
    def get_rng_state(device: Any = None) -> Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    @staticmethod
    def synchronize(device: Any = None) -> None:
        _note("synchronize")


@functools.cache
def install() -> None:
    """Register the device, for good, before the first backward pass of the process."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(
        NAME, backend_module=_Module(), device_guard=_make_guard()
    )
    torch.autograd._engine_run_backward = _run_backward
    for namespace, kernels in (("_", None), ("aten", _KERNELS)):
        registered = _Registry(namespace, "IMPL")
        _registries.append(registered)
        if kernels is None:
            registered.fallback(_fallback, "PrivateUse1")
        else:
            for name, kernel in kernels.items():
                registered.impl(name, kernel, "PrivateUse1")
    torch.Generator = _Generator
    torch.Tensor.__deepcopy__ = _copy_deeply


_Registry: Any = vars(library)["Library"]
_registries: list[Any] = []
"""Kept, for what one registered ends with it."""


# ---- Exceptions in autograd's thread ----

_raised: list[BaseException] = []
_pending = [ctypes.py_object() for _ in range(3)]
_fetch = ctypes.pythonapi.PyErr_Fetch
_fetch.restype = None


def _make_guard() -> Any:
    """Make what torch asks of a device's thread.

    Torch asks in destructors too, while an exception of a hook's is on its way. Python cannot run
    then, and torch would end the process: so the exception is put aside, for :func:`_run_backward`.
    """
    from torch.utils.backend_registration import _DummyDeviceGuard

    places = [ctypes.byref(slot) for slot in _pending]  # no other call may come before this one
    kind, value = _pending[:2]
    own = torch._C._autograd.DeviceType.PrivateUse1

    class Guard(_DummyDeviceGuard):
        def type_(self) -> Any:
            _fetch(*places)
            try:
                raised = value.value
            except ValueError:  # a null pointer: there is none
                return own
            _raised.append(raised if isinstance(raised, BaseException) else kind.value(raised))
            return own

    return Guard()


def _run_backward(
    *args: Any, run: Callable[..., Any] = torch.autograd._engine_run_backward, **kwargs: Any
) -> Any:
    try:
        return run(*args, **kwargs)
    except SystemError:
        if not _raised:
            raise
        raise _raised.pop() from None


# ---- Waits ----

_counters: list[Counter[str]] = []
_lock = threading.Lock()

_READ_VALUES = {
    "_local_scalar_dense": "value read",
    "equal": "value read",
    "nonzero": "size read",
    "masked_select": "size read",
    "_unique2": "size read",
    "unique_dim": "size read",
    "unique_consecutive": "size read",
    "bincount": "size read",
    "repeat_interleave": "size read",
}
_BY_INDICES = {"index", "index_put_", "index_put", "_index_put_impl_"}


@contextmanager
def count_waits() -> Iterator[Counter[str]]:
    """Count by kind, in every thread, what makes the host wait for the device."""
    counter: Counter[str] = Counter()
    with _lock:
        _counters.append(counter)
    try:
        yield counter
    finally:
        with _lock:
            _counters.remove(counter)


def _note(kind: str) -> None:
    with _lock:
        for counter in _counters:
            counter[kind] += 1


def _note_waits(name: str, args: Any) -> None:
    if name in _READ_VALUES:
        _note(_READ_VALUES[name])
    elif name == "_copy_from":
        source, target, *non_blocking = args
        if is_far(source) and not is_far(target):
            _note("copy to the host")
        elif is_far(target) and not is_far(source) and not any(non_blocking):
            _note("copy from the host")
    elif name == "_index_put_impl_":  # of "index" torch itself has moved or counted them by then
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                _note("size read")
            elif index is not None and not is_far(index):
                _note("copy from the host")


# ---- Tensors ----


class _Described(ctypes.Structure):
    """DLPack's description of a tensor, the start of what a capsule points to."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    ]


_ON_CPU, _ON_EXTENSION = 1, 12
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _alias(tensor: Tensor, device_type: int) -> Tensor:
    """Return a tensor over the same memory that is said to be on another device."""
    capsule = torch._C._to_dlpack(tensor)
    described = _Described.from_address(_get_pointer(capsule, b"dltensor"))
    described.device_type, described.device_id = device_type, 0
    for axis, step in enumerate(tensor.stride()):  # which DLPack sets to 1 for a size of 1
        described.strides[axis] = step
    return torch._C._from_dlpack(capsule)


def is_far(tensor: Tensor) -> bool:
    """Tell whether a tensor is on the simulated device."""
    return tensor.device.type == NAME


# ---- Operators ----


def _fallback(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute an operator on the CPU, if CUDA would take its tensors from where they are."""
    name = operator._schema.name.removeprefix("aten::")
    _refuse_strangers(name, args, kwargs)
    _note_waits(name, args)
    return _compute(operator, args, kwargs)


def _refuse_strangers(name: str, args: Any, kwargs: Any) -> None:
    """Raise what CUDA raises where a tensor of the CPU's that is no scalar meets one of its own."""
    if name in _BY_INDICES:  # whose indices may be on the CPU
        args = (args[0], *args[2:])
    for value in _leaves((args, tuple(kwargs.values()))):
        if isinstance(value, Tensor) and not is_far(value) and value.dim() > 0:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{DEVICE} and {value.device}! (in {name})"
            )
        if isinstance(value, _NearGenerator) and value._cdata not in _generators:
            raise RuntimeError(f"Expected a {NAME!r} device type for generator but found 'cpu'")


def _compute(operator: Any, args: Any, kwargs: Any) -> Any:
    """Call an operator with the CPU's tensors in place of the device's; the result goes back."""
    known: dict[int, tuple[Tensor, Tensor]] = {}  # by an alias's id: it, and whose it is

    def bring(value: Any) -> Any:
        if isinstance(value, Tensor) and is_far(value):
            alias = _alias(value, _ON_CPU)
            known[id(alias)] = alias, value
            return alias
        if isinstance(value, torch.device) and value.type == NAME:
            return torch.device("cpu")
        return value

    def bring_empty(value: Tensor) -> Tensor:
        fresh = torch.empty(0, dtype=value.dtype)  # its memory may grow
        known[id(fresh)] = fresh, value
        return fresh

    def take_back(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        alias, whose = known.get(id(value), (value, None))
        if whose is None or alias.shape != whose.shape:
            found = _alias(alias, _ON_EXTENSION)
            if whose is None:
                return found
            whose.data = found
        return whose

    schema = operator._schema
    results = {argument.name for argument in schema.arguments if argument.is_out}
    for argument, value in zip(schema.arguments, args, strict=False):
        if isinstance(argument.type, torch.TensorType) and isinstance(value, (int, float, complex)):
            operator = operator.overloadpacket  # torch hands over a number as such: one for numbers
    brought = {
        name: bring_empty(value) if name in results and not value.numel() else bring(value)
        for name, value in kwargs.items()
    }
    return _map(take_back, operator(*_map(bring, args), **brought))


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)([_map(function, part) for part in value])
    return function(value)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _convolve(*args: Any) -> Any:
    _refuse_strangers("convolution", args, {})
    return _compute(torch.ops.aten.convolution.default, args, {})


def _convolve_back(signal: Any, x: Any, weight: Any, *settings: Any) -> Any:
    _refuse_strangers("convolution_backward", (signal, x, weight), {})
    *geometry, wanted = settings
    transposed, groups = geometry[3], geometry[5]
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    args = (signal, x, weight, [channels] if wanted[2] else None, *settings)
    return _compute(torch.ops.aten.convolution_backward.default, args, {})


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _note_waits("_copy_from", (source, target, non_blocking))
    near = [_alias(tensor, _ON_CPU) if is_far(tensor) else tensor for tensor in (source, target)]
    near[1].copy_(near[0])
    return target


_KERNELS: dict[str, Callable[..., Any]] = {
    "convolution_overrideable": _convolve,
    "convolution_backward_overrideable": _convolve_back,
    "_copy_from": _copy_from,
}


_NearGenerator = torch.Generator
_generators: dict[int, torch.Generator] = {}


class _Generators(type(_NearGenerator)):
    """Stands for ``torch.Generator``, which takes no device that was registered from Python."""

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        if torch.device(device).type != NAME:
            return _NearGenerator(device)
        made = _NearGenerator()  # its numbers are the CPU's, and it is remembered whose it is
        _generators[made._cdata] = made
        return made

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _NearGenerator)


class _Generator(_NearGenerator, metaclass=_Generators):
    pass


def _copy_deeply(
    tensor: Tensor, memo: dict[int, Any], deepcopy: Any = torch.Tensor.__deepcopy__
) -> Tensor:
    """Copy a tensor of the device without making a storage, of which it has no allocator."""
    if not is_far(tensor):
        return deepcopy(tensor, memo)
    if id(tensor) not in memo:
        memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    return memo[id(tensor)]
