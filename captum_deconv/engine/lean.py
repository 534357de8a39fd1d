"""A forward pass that keeps little of what autograd would keep.

While the model runs, every tensor that a node saves goes into a holder. When the call that made the
node returns, the table in :mod:`captum_deconv.engine.saved` says what the node will read, and the
holders let go of the rest: of an input that only its shape is read of, nothing stays, and of a
max-pool its switches as small integers. That is ``memory="light"``, which takes no time to speak
of. With ``"lean"`` a rectifier keeps one bit for each value.

On the way back a rectifier is given a saved value that lets every signal pass, and its mask is
applied to the gradient in place, where a rule is applied as well: so no mask is ever blown up to a
map of floats. A convolution is given an input of the right shape whose memory nobody ever touched,
and which therefore takes none.

What the table does not know, and what the mode does not see (TorchScript, compiled parts, C++
modules, custom functions, checkpoints, saved-tensor hooks of the model's own), stays as it is.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_deconv.engine.saved import (
    READS,
    Reads,
    find_passing,
    find_stand_ins,
    pack_switches,
)

Bits = npt.NDArray[np.uint8]
Memory = Literal["light", "lean", "autograd"]

_SMALL = 1024
"""Values up to which it is not worth it to look at a saved tensor."""

_PART = 2**18
"""Values that are packed or unpacked at a time."""


class CannotBeLeanError(BaseException):
    """The model differentiates on its own, by what a lean pass does not keep.

    No ``except Exception`` in the model's code stops it.
    """


class _Holder:
    """What stands for a saved tensor."""

    __slots__ = ("tensor", "unpack", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor
        self.version = tensor._version
        self.unpack: Callable[[], Tensor] | None = None

    def replace(self, unpack: Callable[[], Tensor]) -> None:
        """Let go of the tensor for what is to be read in its place."""
        self.unpack, self.tensor = unpack, None


class _Arena:
    """Bits in a few mappings of their own, so that what stays does not lie between what goes."""

    def __init__(self) -> None:
        self._chunk = np.empty(0, np.uint8)
        self._used = 0
        self._bools = torch.empty(0, dtype=torch.bool)

    def keep(self, row: Tensor) -> Bits:
        """Keep one bit for each value of a row: whether it is other than zero."""
        size = -(-row.numel() // 8)
        if self._used + size > self._chunk.size:
            self._chunk = np.frombuffer(mmap.mmap(-1, max(2**22, size)), np.uint8)
            self._used = 0
        place = self._chunk[self._used : self._used + size]
        self._used += size
        if not self._bools.numel():
            self._bools = torch.empty(_PART, dtype=torch.bool)
        # In parts that stay in the processor's cache.
        for start in range(0, row.numel(), _PART):
            part = row[start : start + _PART]
            bools = self._bools[: part.numel()].copy_(part)
            packed = np.packbits(bools.view(torch.uint8).numpy())
            place[start // 8 : start // 8 + packed.size] = packed
        return place


class Mask:
    """Where a rectifier passes a signal on, one bit for each value.

    Args:
        node: The rectifier's.
        saved: What it saved.
        arena: Where the bits are kept.
    """

    def __init__(self, node: Any, saved: Tensor, arena: _Arena) -> None:
        # Filled where it is, and not sent there: that would be to wait for a GPU at each rectifier.
        self._blocked, self._passing = (saved.new_full((), v) for v in find_stand_ins(node))
        passes = find_passing(node, saved)
        # In the order of what is kept: of a slice, a comparison may be in another than the slice.
        self._shape, self._stride = passes.shape, passes.stride()
        # The other kernels are given the saved tensor first.
        self._signal_leads = type(node).__name__ == "HardtanhBackward0"
        self._on_cpu = saved.device.type == "cpu"
        self._kept: Any = arena.keep(_in_order(passes)) if self._on_cpu else passes.bool()
        self.applied = False
        """Whether the mask is applied to the gradient, so that the node itself may pass all on."""

    def unpack(self) -> Tensor:
        """Return what the node may read in place of what it saved."""
        if self.applied:
            return self._passing.expand(self._shape)
        chosen: Tensor = torch.where(self._find_passing(), self._passing, self._blocked)
        return chosen

    def lay_out(self, gradient: Tensor, signal: Tensor) -> Tensor:
        """Return a gradient in the order of memory that autograd would have given it.

        That follows from both the signal and what was saved, of which the node read one value.
        """
        if gradient.stride() == signal.stride() == self._stride:
            return gradient
        saved, above = (
            torch.empty_strided(self._shape, stride, device="meta")
            for stride in (self._stride, signal.stride())
        )
        order = (above + saved if self._signal_leads else saved + above).stride()
        if gradient.stride() == order:
            return gradient
        return gradient.new_empty_strided(self._shape, order).copy_(gradient)

    def apply_(self, gradient: Tensor) -> Tensor:
        """Set a gradient to zero, in place, where no signal passes."""
        if not self._on_cpu or gradient.stride() != self._stride or not _is_dense(gradient):
            return gradient.masked_fill_(~self._find_passing(), 0)
        row = _in_order(gradient)
        for start in range(0, row.numel(), _PART):
            part = row[start : start + _PART]
            bits = self._kept[start // 8 : (start + _PART) // 8]
            # From bytes: of bools the conversion, and a masked_fill_, are several times slower.
            passes = torch.from_numpy(np.unpackbits(bits, count=part.numel())).to(row.dtype)
            torch.ops.aten.threshold_backward.grad_input(part, passes, 0, grad_input=part)
        return gradient

    def _find_passing(self) -> Tensor:
        if not self._on_cpu:
            return cast("Tensor", self._kept)
        row = torch.from_numpy(np.unpackbits(self._kept, count=self._shape.numel())).bool()
        like = torch.empty_strided(self._shape, self._stride, device="meta")
        return row.as_strided(self._shape, self._stride) if _is_dense(like) else row.view_as(like)


def _is_dense(tensor: Tensor) -> bool:
    """Tell whether values fill their memory without holes or overlaps, in whatever order."""
    expected = 1
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if step != expected:
                return False
            expected *= size
    return True


def _in_order(tensor: Tensor) -> Tensor:
    """Return the values as one row, in the order of their memory where it has no holes."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    return tensor.as_strided((tensor.numel(),), (1,)) if _is_dense(tensor) else tensor.reshape(-1)


_MOST_VIEWS = 1024


class _Blank:
    """Tensors of any shape whose values nobody reads.

    On the CPU all are views of zeros that the system hands out when they are first touched, which
    they never are. (A broadcast zero would be made contiguous by some kernels: a whole map.)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._views: dict[Any, Tensor] = {}

    def view(
        self, shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Return a tensor of this shape and order."""
        if device.type != "cpu":
            return torch.empty_strided(shape, stride, dtype=dtype, device=device)
        known = self._views.get((shape, stride, dtype))
        if known is not None:  # every question of many asks for all of them again
            return known
        extent = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        size = max(extent, 1) * dtype.itemsize
        with self._lock:
            if self._bytes.numel() < size:
                # calloc, which for so much memory is fresh pages; torch.zeros would write to them.
                self._bytes = torch.from_numpy(np.zeros(2 * size, np.uint8))
                self._views = {}
            if len(self._views) >= _MOST_VIEWS:
                self._views = {}
            view = self._bytes[:size].view(dtype).as_strided(shape, stride)
            self._views[shape, stride, dtype] = view
            return view


_blank = _Blank()


class _Saver:
    """The hooks that autograd calls with each tensor that a node saves, and for each that it reads.

    The graph refers to it, so it refers to nothing of the graph's.
    """

    def __init__(self) -> None:
        self.new: set[_Holder] = set()
        self._probed: Any = None

    def pack(self, tensor: Tensor) -> _Holder:
        """Put what a node saves into a holder."""
        # Not the tensor itself: a node that saves its own output would stand in a circle, which
        # Python's collector cannot see.
        holder = _Holder(tensor.detach())
        if tensor.numel() > _SMALL and tensor.layout is torch.strided and not tensor.is_nested:
            self.new.add(holder)
        return holder

    def unpack(self, holder: _Holder) -> Tensor:
        """Return what a node reads of what it saved."""
        self._probed = holder
        if holder.unpack is not None:
            return holder.unpack()
        tensor: Any = holder.tensor
        if tensor._version != holder.version:
            # Where there are hooks, autograd does not look at versions itself.
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an "
                f"inplace operation: a tensor of shape {tuple(tensor.shape)} is at version "
                f"{tensor._version}; expected version {holder.version} instead"
            )
        return cast("Tensor", tensor)

    def is_in_charge(self) -> bool:
        """Tell whether what is saved now comes here, and not to hooks of the model's own."""
        top = torch._C._autograd._top_saved_tensors_default_hooks(True)
        return top is not None and getattr(top[0], "__self__", None) is self

    def probe(self, node: Any, attribute: str) -> Any:
        """Return the holder that a node has of one of its saved tensors, by asking it for that."""
        self._probed = None
        getattr(node, f"_saved_{attribute}")
        return self._probed


class Recorder(TorchFunctionMode):
    """Keeps of one forward pass what its backward passes read.

    Args:
        masks: Whether of rectifiers, too, only a bit for each value is kept, which takes time.

    Attributes:
        saver: The hooks for autograd.
        masks: By rectifier node, the mask that is to be applied to its gradient.
    """

    def __init__(self, *, masks: bool) -> None:
        super().__init__()
        self._bits = masks
        self.saver = _Saver()
        self.masks: dict[Any, Mask] = {}
        self._arena = _Arena()
        self._thread = threading.get_ident()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let whole signals pass the rectifiers, for a backward pass that applies the masks."""
        try:
            for mask in self.masks.values():
                mask.applied = True
            yield
        finally:
            for mask in self.masks.values():
                mask.applied = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func``, and let go of what the nodes that it made will not read."""
        if func in _DIFFERENTIATING:
            raise CannotBeLeanError
        begun = torch._C._autograd._get_sequence_nr()
        result = func(*args, **(kwargs or {}))
        if self.saver.new:
            if threading.get_ident() == self._thread and self.saver.is_in_charge():
                parts = result if isinstance(result, (tuple, list)) else (result,)
                tensors = [part for part in parts if isinstance(part, Tensor)]
                self._settle_from([t.grad_fn for t in tensors if t.grad_fn is not None], begun)
            self.saver.new.clear()
        return result

    def _settle_from(self, waiting: list[Any], begun: int) -> None:
        """Settle nodes, and those below them that the same call made, each once.

        Of no other is it known whose hooks have what it saved: to ask a checkpointed node would run
        its part of the model again. Of a recurrent layer there are more ways down than nodes.
        """
        seen: set[Any] = set()
        while waiting:
            node = waiting.pop()
            if node in seen or node._sequence_nr() < begun:
                continue
            seen.add(node)
            reads = READS.get(type(node).__name__)
            if reads is not None and reads.holds(node):
                self._let_go(node, reads)
            waiting += [successor for successor, _ in node.next_functions if successor is not None]

    def _let_go(self, node: Any, reads: Reads) -> None:
        if reads.switches is not None:
            holder = self._find(node, reads.switches)
            if holder is not None:
                holder.replace(pack_switches(node, holder.tensor))
        if reads.mask_of is not None and self._bits:
            holder = self._find(node, reads.mask_of)
            if holder is not None:
                mask = self.masks[node] = Mask(node, holder.tensor, self._arena)
                holder.replace(mask.unpack)
        for attribute in reads.shape_of:
            holder = self._find(node, attribute)
            if holder is not None:
                saved = holder.tensor
                holder.replace(
                    partial(_blank.view, saved.shape, saved.stride(), saved.dtype, saved.device)
                )

    def _find(self, node: Any, attribute: str) -> Any:
        """Find the holder of one of a node's saved tensors, if it is new and as it was saved."""
        probed = self.saver.probe(node, attribute)
        if probed not in self.saver.new or probed.unpack is not None:
            return None
        return probed if probed.tensor._version == probed.version else None


_DIFFERENTIATING = {torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward}


def make_recorder(memory: Memory) -> Recorder | None:
    """Return a recorder, or None where autograd is to keep what it keeps, or lets nobody look."""
    enabled = torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]  # no stub
    return Recorder(masks=memory == "lean") if enabled and memory != "autograd" else None


def check_memory(memory: Memory) -> Memory:
    """Return it, or raise a ValueError."""
    if memory not in get_args(Memory):
        raise ValueError(f"unknown memory {memory!r}: choose from {', '.join(get_args(Memory))}")
    return memory


def is_for_want_of_hooks(error: Exception) -> bool:
    """Tell whether a part of the model cannot be recorded while saved tensors are looked after."""
    return "saved tensor hooks" in str(error)
