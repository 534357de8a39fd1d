"""Every way to write a rectifier, and the activations that somebody may mean by one."""

import torch
import torch.nn.functional as F
from torch import nn

SPELLINGS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "function": F.relu,
    "function in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "clamp(min=0.0)": lambda x: torch.clamp(x, min=0.0),
    "clamp(min=tensor)": lambda x: x.clamp(min=x.new_zeros(())),
    "clamp(min=full tensor)": lambda x: x.clamp(min=torch.zeros_like(x)),
    "clamp_": lambda x: x.clamp_(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_min(tensor)": lambda x: torch.clamp_min(x, x.new_zeros(1)),
    "clamp_min_": lambda x: x.clamp_min_(0),
    "clip": lambda x: torch.clip(x, min=0),
    "clip_": lambda x: x.clip_(0),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "threshold in place": nn.Threshold(0, 0, inplace=True),
    "maximum(x, 0)": lambda x: torch.maximum(x, x.new_zeros(())),
    "maximum(0, x)": lambda x: torch.maximum(torch.zeros_like(x), x),
    "max(x, 0)": lambda x: torch.max(x, x.new_zeros(())),
    "max(0, x)": lambda x: x.new_zeros(()).max(x),
    "fmax(x, 0)": lambda x: x.fmax(x.new_zeros(())),
    "fmax(0, x)": lambda x: x.new_zeros(()).fmax(x),
    "ReLU6": nn.ReLU6(),
    "ReLU6 in place": nn.ReLU6(inplace=True),
    "relu6": F.relu6,
    "hardtanh(0, 1)": lambda x: F.hardtanh(x, 0.0, 1.0),
    "clamp(0, 1)": lambda x: x.clamp(0, 1),
    "clamp(tensors)": lambda x: x.clamp(x.new_zeros(()), x.new_ones(())),
    "clip_(0, 1)": lambda x: x.clip_(0, 1),
}

LEAKY = {
    "LeakyReLU": nn.LeakyReLU(0.1),
    "LeakyReLU in place": nn.LeakyReLU(0.1, inplace=True),
    "RReLU": nn.RReLU().eval(),
    "PReLU": nn.PReLU(),
    "PReLU of channels": lambda x: F.prelu(x, torch.linspace(-0.5, 0.5, x.shape[1]).to(x.dtype)),
}

SMOOTH = {
    "ELU": nn.ELU(),
    "ELU in place": nn.ELU(inplace=True),
    "SELU": nn.SELU(),
    "CELU": nn.CELU(),
    "GELU": nn.GELU(),
    "GELU by tanh": nn.GELU(approximate="tanh"),
    "SiLU": nn.SiLU(),
    "SiLU in place": nn.SiLU(inplace=True),
    "Mish": nn.Mish(),
    "Softplus": nn.Softplus(),
    "Hardswish": nn.Hardswish(),
}
