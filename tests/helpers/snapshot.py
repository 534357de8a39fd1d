"""What a call must leave as it was."""

import copy
import hashlib

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack


class Snapshot:
    """Everything of the user's that a call must leave as it was.

    Args:
        model: The user's module.
        tensors: The user's tensors.
    """

    def __init__(self, model: nn.Module, *tensors: torch.Tensor) -> None:
        self.model = model
        self.tensors = tensors
        self.before = self._take()

    def _take(self) -> dict[str, object]:
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        state: dict[str, object] = {
            "grad mode": torch.is_grad_enabled(),
            "inference mode": torch.is_inference_mode_enabled(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "executor": torch._C._get_graph_executor_optimize(),
            "stance": _stance(),
            "function modes": _get_current_function_mode_stack(),
            "hooks": torch._C._autograd._top_saved_tensors_default_hooks(True),
        }
        for name, module in self.model.named_modules():
            state[f"{name} training"] = module.training
            state[f"{name} attributes"] = sorted(vars(module))
            for kind in hooks:
                state[f"{name}{kind}"] = dict(getattr(module, kind))
        named = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        named |= {f"input {index}": tensor for index, tensor in enumerate(self.tensors)}
        for name, tensor in named.items():
            state[f"{name} identity"] = id(tensor)
            state[f"{name} data"] = digest(tensor)
            state[f"{name} requires_grad"] = tensor.requires_grad
            state[f"{name} is_leaf"] = tensor.is_leaf
            state[f"{name} hooks"] = copy.copy(getattr(tensor, "_backward_hooks", None))
            if tensor.is_leaf:
                state[f"{name} grad"] = None if tensor.grad is None else digest(tensor.grad)
        return state

    def assert_unchanged(self) -> None:
        """Fail, naming what differs."""
        after = self._take()
        changed = [key for key, value in self.before.items() if after.get(key) != value]
        assert not changed, f"changed: {changed}"
        assert after.keys() == self.before.keys()


def digest(tensor: torch.Tensor) -> str:
    """Return a hash of a tensor's type, shape and bits."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.is_inference():
        flat = flat.clone()  # of which there may be a view
    bits = hashlib.sha256(flat.view(torch.uint8).numpy()).hexdigest()
    return f"{tensor.dtype} {tuple(tensor.shape)} {bits}"


def _stance() -> str:
    import torch._dynamo.eval_frame as eval_frame

    return eval_frame._stance.stance
