"""Exactness where Python does not run op by op: TorchScript, torch.compile, checkpoints, GPUs.

The reference runs the eager original with the same weights. Every case that claims to be warm first
shows that the model's own graph is opaque by then.
"""

import networks
import oracle
import pytest
import torch
import torch.nn.functional as F
from agreement import check_all, check_inputs, check_layer, check_neuron
from torch import nn

import captum_deconv as cd

NEURON = ("second", (2, 1, 1))

pytestmark = [
    # torch.jit is deprecated; whoever has a scripted model still gets exact numbers.
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),
    # What torch.compile itself gives rise to, in its imports and for a part with no leaf as input.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Skipping serialization of"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_two_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="needs two CUDA devices for DataParallel to split a batch"
)


def seeded(build, *arguments):
    torch.manual_seed(0)
    return build(*arguments).eval()


def image(device="cpu"):
    return torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(1)).to(device)


def node_names(model, x):
    """Return the names of the backward nodes that the model's own call records."""
    output = model(x.clone().requires_grad_())  # which keeps its graph alive
    waiting = [output.grad_fn]
    found = {}
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = node.name()
            waiting += [successor for successor, _ in node.next_functions]
    return set(found.values())


def warm_up(model, x):
    """Run the model as its user would, with and without a backward pass."""
    for _ in range(4):
        model(x.clone().requires_grad_()).sum().backward()
        model.zero_grad()
    with torch.no_grad():
        for _ in range(3):
            model(x)


def is_fused(model, x):
    return any("DifferentiableGraphBackward" in name for name in node_names(model, x))


def is_compiled(model, x):
    return any("CompiledFunctionBackward" in name for name in node_names(model, x))


def to_script(model, x):
    return torch.jit.script(model)


def to_trace(model, x):
    return torch.jit.trace(model, x)


def to_frozen_script(model, x):
    return torch.jit.freeze(torch.jit.script(model))


@pytest.mark.parametrize("state", ["cold", "warm"])
@pytest.mark.parametrize("convert", [to_script, to_trace, to_frozen_script])
def test_torchscript(convert, state):
    model = seeded(networks.Chain)
    scripted = convert(model, image())
    if state == "warm":
        warm_up(scripted, image())
    if state == "warm" and convert is to_script:
        assert is_fused(scripted, image())
    check_inputs(scripted, image(), 1, eager=model)
    check_inputs(scripted, image(), 2, eager=model)
    if state == "warm" and convert is to_script:
        assert is_fused(scripted, image()), "the user's model stays as warm as it was"


class Inner(networks.Chain):
    """A class of its own, since TorchScript shares what is warm among a class's objects."""


def test_torchscript_inside_an_eager_model_is_exact_while_cold_and_named_when_fused():
    eager = nn.Sequential(nn.Conv2d(3, 3, 1), seeded(Inner))
    scripted = nn.Sequential(eager[0], torch.jit.script(eager[1]))
    check_inputs(scripted, image(), 1, eager=eager)
    check_layer(scripted, "0", image(), 1, eager=eager)
    warm_up(scripted, image())
    assert is_fused(scripted, image())
    with pytest.warns(cd.RectifierCoverageWarning, match="TorchScript graph, fused"):
        cd.GuidedBackprop(scripted).attribute(image(), 1)
    with pytest.raises(cd.RectifierCoverageError, match="TorchScript graph, fused"):
        cd.Deconvnet(scripted, uncovered="raise").attribute(image(), 1)


def compile_module(model, backend):
    return torch.compile(model, backend=backend)


def compile_in_place(model, backend):
    model.compile(backend=backend)
    return model


@pytest.mark.parametrize(
    ("backend", "state"),
    [
        ("aot_eager", "cold"),
        ("aot_eager", "warm"),
        ("inductor", "cold"),
        # C++ is compiled for half a minute; a warm inductor is also in the test below.
        pytest.param("inductor", "warm", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("convert", [compile_module, compile_in_place])
def test_torch_compile(convert, backend, state):
    eager = seeded(networks.Chain)
    compiled = convert(seeded(networks.Chain), backend)
    compiled.load_state_dict(
        {f"_orig_mod.{k}": v for k, v in eager.state_dict().items()}
        if convert is compile_module
        else eager.state_dict()
    )
    if state == "warm":
        warm_up(compiled, image())
        assert is_compiled(compiled, image())
    check_all(compiled, image(), 1, neuron=NEURON, layer="first", eager=eager)
    if state == "warm":
        with torch.compiler.set_stance("fail_on_recompile"):
            assert is_compiled(compiled, image()), "the user's compiled code is still in use"


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_part_and_a_compiled_function(backend):
    eager = seeded(networks.Chain)
    part = nn.Sequential(nn.Conv2d(3, 3, 1), torch.compile(seeded(networks.Chain), backend=backend))
    whole = nn.Sequential(part[0], eager)
    warm_up(part, image())
    assert is_compiled(part, image())
    check_inputs(part, image(), 1, eager=whole)
    check_layer(part, "0", image(), 1, eager=whole)
    function = torch.compile(lambda x: eager(x) * 1, backend=backend)
    function(image().requires_grad_()).sum().backward()
    check_inputs(function, image(), 1, eager=eager)


class Direct(networks.Checkpointed):
    """The same network without the checkpoint."""

    def forward(self, x):
        return self.head(self.stage(x).mean((2, 3)))


def test_non_reentrant_checkpoint():
    model, direct = seeded(networks.Checkpointed), seeded(Direct)
    check_inputs(model, image(), 1, eager=direct)
    # A layer inside is run again in the backward pass, without any hook of ours.
    check_neuron(model, "second", image(), (2, 1, 1), eager=direct)
    check_neuron(model, "head", image(), 1, eager=direct)
    for method, attribution in cd.compare(model, image(), 1).items():
        expected = oracle.input_attribution(direct, image(), 1, method)[0]
        assert torch.equal(attribution, expected), method


def test_non_reentrant_checkpoint_above_the_layer():
    stem = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(stem, seeded(networks.Checkpointed))
    direct = nn.Sequential(stem, seeded(Direct))
    check_layer(model, "0", image(), 1, eager=direct)


def test_reentrant_checkpoint_is_refused_by_name():
    model = seeded(networks.Checkpointed)
    model.use_reentrant = True
    with pytest.raises(cd.RectifierCoverageError, match="use_reentrant=False"):
        cd.GuidedBackprop(model).attribute(image(), 1)


@gpu
@needs_gpu
@pytest.mark.parametrize("build", [networks.Plain, networks.Skip, networks.FirstInPlace, Direct])
def test_on_a_gpu(build, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    model = seeded(build).cuda()
    check_all(model, image("cuda"), 1, neuron=NEURON, layer="first")


@gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_on_a_gpu(dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    model = seeded(networks.Plain).cuda()
    with torch.autocast("cuda", dtype):
        check_all(model, image("cuda"), 1, neuron=NEURON, layer="first")
    check_all(model.to(dtype), image("cuda").to(dtype), 1, neuron=NEURON, layer="first")


@gpu
@needs_gpu
@pytest.mark.parametrize("convert", [to_script, to_trace])
def test_warm_torchscript_on_a_gpu(convert, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    model = seeded(networks.Chain).cuda()
    scripted = convert(model, image("cuda"))
    warm_up(scripted, image("cuda"))
    check_inputs(scripted, image("cuda"), 1, eager=model)


@gpu
@needs_gpu
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_torch_compile_on_a_gpu(backend, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    eager = seeded(networks.Chain).cuda()
    compiled = torch.compile(eager, backend=backend)
    warm_up(compiled, image("cuda"))
    check_all(compiled, image("cuda"), 1, neuron=NEURON, layer="first", eager=eager)


@gpu
@needs_gpu
def test_a_cudnn_rnn_of_relu_units_is_named_since_it_is_one_opaque_node():
    model = seeded(networks.Recurrent).cuda()
    x = torch.randint(-2, 3, (2, 4, 4)).float().cuda()
    with pytest.warns(cd.RectifierCoverageWarning, match="cuDNN RNN of ReLU units"):
        cd.GuidedBackprop(model).attribute(x, 1)


@gpu
@needs_gpu
def test_data_parallel_on_one_gpu():
    eager = seeded(networks.Plain).cuda()
    parallel = nn.DataParallel(eager, device_ids=[0])
    check_all(parallel, image("cuda"), 1, neuron=NEURON, layer="first", eager=eager)


@gpu
@needs_two_gpus
def test_data_parallel_on_two_gpus(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    # In evaluation mode examples do not mix, so two halves of a batch are two batches.
    eager = seeded(networks.Plain, F.relu).cuda()
    parallel = nn.DataParallel(eager, device_ids=[0, 1])

    def halves(x):
        return torch.cat([eager(half) for half in x.chunk(2)])

    check_inputs(parallel, image("cuda"), 1, eager=halves)
    for kind in (cd.LayerGradient, cd.LayerGuidedBackprop, cd.LayerDeconvnet):
        whole = kind(parallel, "first").attribute(image("cuda"), 1)
        parts = [kind(eager, "first").attribute(half, 1) for half in image("cuda").chunk(2)]
        assert torch.equal(whole, torch.cat(parts))
    for kind in (cd.NeuronGradient, cd.NeuronGuidedBackprop, cd.NeuronDeconvnet):
        whole = kind(parallel, "second").attribute(image("cuda"), (2, 1, 1))
        parts = [
            kind(eager, "second").attribute(half, (2, 1, 1)) for half in image("cuda").chunk(2)
        ]
        assert torch.equal(whole, torch.cat(parts))
