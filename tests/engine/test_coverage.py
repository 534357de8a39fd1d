"""Nothing silent: what is overridden, what is not, and how the user is told."""

import warnings

import pytest
import torch
import torchvision
from opaque import TELLS, Opaque
from snapshot import Snapshot
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from captum_deconv import (
    Deconvnet,
    GuidedBackprop,
    GuidedGradCam,
    InputGradient,
    LayerGuidedBackprop,
    NeuronDeconvnet,
    RectifierCoverageError,
    RectifierCoverageWarning,
    compare,
    coverage,
)
from captum_deconv.engine import forward, modes, rectifiers

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def named(findings):
    return {finding.operation: finding.count for finding in findings}


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (F.relu, "ReLU"),
        (torch.relu, "ReLU"),
        (torch.Tensor.relu, "ReLU"),
        (F.relu6, "ReLU6"),
        (lambda x: F.hardtanh(x, 0, 1), "ReLU6"),
        (lambda x: F.threshold(x, 0, 0), "threshold"),
        (lambda x: x.clamp(min=0), "clamp"),
        (lambda x: x.clamp(0, 3), "clamp"),
        (lambda x: x.clamp_min(0), "clamp"),
        (lambda x: x.clamp(min=torch.tensor(0.0)), "clamp"),
        (lambda x: torch.clamp_min(x, torch.zeros(6)), "clamp"),
        (lambda x: torch.maximum(x, torch.zeros(6)), "maximum"),
        (lambda x: torch.maximum(torch.tensor(0.0), x), "maximum"),
        (lambda x: torch.fmax(x, torch.tensor(0.0)), "fmax"),
    ],
)
def test_every_spelling_of_a_rectifier_is_found(function, operation):
    found = coverage(lambda x: function(x).sum(1), X)
    assert named(found.overridden) == {operation: 1}
    assert found.complete


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.hardtanh(x),
        lambda x: F.threshold(x, 0.5, 0),
        lambda x: x.clamp(min=1e-3),
        lambda x: x.clamp(max=0),
        lambda x: x.clamp(min=torch.ones(6)),
        lambda x: torch.maximum(x, torch.ones(6)),
        lambda x: torch.maximum(x, -x),
        F.normalize,
    ],
)
def test_a_bound_elsewhere_is_no_rectifier(function):
    found = coverage(lambda x: function(x).sum(1), X)
    assert not found.overridden
    assert not found.uncovered


def test_what_is_no_rectifier_hides_none_on_either_side_of_it():
    def between(x):
        for function in (torch.relu, lambda x: x.clamp(min=1.0), F.gelu, F.relu6):
            x = function(x)
        return x.sum(1)

    assert named(coverage(between, X).overridden) == {"ReLU": 1, "ReLU6": 1}
    leaf = X.clone().requires_grad_()
    found = rectifiers.survey([between(leaf)], [leaf]).rectifiers
    assert sorted(rectifier.operation for rectifier in found) == ["ReLU", "ReLU6"]


LEAKY = [nn.LeakyReLU(), nn.PReLU(), nn.RReLU(), nn.LeakyReLU(inplace=True), nn.RReLU(inplace=True)]
SMOOTH = [
    *(nn.ELU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.Softplus()),
    *(nn.Hardswish(), nn.ELU(inplace=True), nn.CELU(inplace=True)),
]


@pytest.mark.parametrize("activation", [*LEAKY, *SMOOTH], ids=str)
def test_families(activation):
    model = nn.Sequential(nn.Linear(6, 4), activation, nn.Linear(4, 2), nn.ReLU()).eval()
    leaky = activation in LEAKY
    assert sum(named(coverage(model, X).uncovered).values()) == 1
    assert coverage(model, X, activations="leaky").complete is leaky
    assert coverage(model, X, activations="all").complete
    with pytest.warns(RectifierCoverageWarning, match='"leaky"' if leaky else "no paper"):
        Deconvnet(model).attribute(X, 1)
    with pytest.raises(RectifierCoverageError, match=type(activation).__name__):
        GuidedBackprop(model, uncovered="raise").attribute(X, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = Deconvnet(model, uncovered="ignore").attribute(X, 1)
        ruled = Deconvnet(model, activations="all", uncovered="raise").attribute(X, 1)
    assert not torch.equal(plain, ruled)


def test_activations_without_any_rule_are_named():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Tanh(), nn.Hardshrink(), nn.GLU())
    found = coverage(model, X, activations="all")
    assert named(found.uncovered) == {"Hardshrink": 1}
    with pytest.warns(RectifierCoverageWarning, match="Hardshrink"):
        GuidedBackprop(model, activations="all").attribute(X, 1)


def test_gates_and_outputs_are_listed_and_warned_of_by_nothing():
    gates = nn.Sigmoid(), nn.Hardsigmoid(), nn.Tanh(), nn.Softmax(1), nn.GLU()
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.LayerNorm(6), *gates)
    found = coverage(model, X)
    names = {"LayerNorm", "Sigmoid", "Hardsigmoid", "Tanh", "Softmax", "GLU"}
    assert set(named(found.ordinary)) == names
    assert found.complete
    GuidedBackprop(model, uncovered="raise").attribute(X, 1)


def test_the_report_reads_well():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 3), nn.SiLU()), nn.Sigmoid()
    )
    text = str(coverage(model, torch.rand(1, 3, 8, 8)))
    assert text.splitlines() == [
        "overridden: 1 node",
        "  ReLU (ReluBackward0): 1, in '1'",
        "left as it is, though a rule would belong there: 1 node",
        "  SiLU (SiluBackward0): 1, in '2.1'; activations=\"all\" overrides it, which no paper "
        "defines",
        "nonlinear, with its ordinary gradient, as in the papers: 1 node",
        "  Sigmoid (SigmoidBackward0): 1, in '3'",
    ]


def test_every_finding_is_of_a_family_and_the_commonest_kind_comes_first():
    def forward(x):
        for function in (F.relu6, torch.relu, torch.relu, F.gelu, torch.tanh):
            x = function(x)
        return Opaque.apply(F.hardshrink(x)).sum(1)

    found = coverage(forward, X)
    assert [(finding.operation, finding.count) for finding in found.overridden] == [
        ("ReLU", 2),
        ("ReLU6", 1),
    ]
    kinds = [*found.overridden, *found.uncovered, *found.ordinary]
    assert {finding.operation: finding.family for finding in kinds} == {
        "ReLU": "relu",
        "ReLU6": "relu",
        "GELU": "smooth",
        "Hardshrink": "no rule",
        "custom autograd function": "opaque",
        "Tanh": "ordinary",
    }
    assert found.activations == "relu"
    leaky = coverage(lambda x: F.leaky_relu(F.leaky_relu(x), 0.0).sum(1), X, activations="leaky")
    assert leaky.activations == "leaky"
    assert {finding.operation: finding.family for finding in leaky.overridden} == {
        "LeakyReLU": "leaky",
        "LeakyReLU(0)": "relu",
    }


@pytest.mark.parametrize(
    ("count", "places"),
    [
        (4, "'0', '1', '2', '3'"),
        (5, "'0', '1', '2', '3' and 1 more"),
        (6, "'0', '1', '2', '3' and 2 more"),
    ],
)
def test_the_report_names_four_places_and_counts_the_rest(count, places):
    text = str(coverage(nn.Sequential(*(nn.ReLU() for _ in range(count))), X))
    assert text == f"overridden: {count} nodes\n  ReLU (ReluBackward0): {count}, in {places}"


def test_places_of_functional_rectifiers(model, images):
    (relu,) = coverage(model, images).overridden
    assert relu.count == 3
    assert relu.modules == ("relu", "(the model itself)")


@pytest.mark.parametrize(
    ("name", "uncovered", "ordinary"),
    [
        ("densenet121", {}, set()),
        ("vit_b_32", {"GELU": 12}, {"LayerNorm"}),
        ("mobilenet_v3_small", {"Hardswish": 19}, {"Hardsigmoid"}),
        ("efficientnet_b0", {"SiLU": 49}, {"Sigmoid"}),
        ("regnet_y_400mf", {}, {"Sigmoid"}),
    ],
)
def test_torchvisions_networks(name, uncovered, ordinary):
    model = torchvision.models.get_model(name, weights=None).eval()
    size = 224 if name.startswith("vit") else 64
    found = coverage(model, torch.rand(1, 3, size, size))
    assert named(found.uncovered) == uncovered
    assert set(named(found.ordinary)) >= ordinary


def test_one_warning_for_each_object_and_none_to_ignore():
    model = nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.ReLU())
    method = GuidedBackprop(model)
    with pytest.warns(RectifierCoverageWarning) as said:
        [method.attribute(X, 1) for _ in range(3)]
    assert [str(warning.message) for warning in said] == [
        "left with its ordinary gradient: GELU (GeluBackward0): 1; "
        'activations="all" overrides it, which no paper defines'
    ]
    with pytest.warns(RectifierCoverageWarning) as said:
        compare(model, X, 1)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GuidedBackprop(model, uncovered="ignore").attribute(X, 1)
        InputGradient(model).attribute(X, 1)  # has no rule to miss anything


def test_a_warning_points_at_the_users_line():
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(), nn.GELU(), nn.ReLU()).train()
    for call in (GuidedBackprop(model).attribute, lambda *args: compare(model, *args)):
        with pytest.warns(UserWarning, match="GELU|Dropout") as said:
            call(X, 1)
        assert len(said) == 2
        assert {warning.filename for warning in said} == {__file__}


def test_a_network_without_rectifiers():
    model = nn.Linear(6, 3)
    with pytest.warns(RectifierCoverageWarning, match="the result is the plain gradient"):
        result = Deconvnet(model).attribute(X, 1)
    assert torch.equal(result, InputGradient(model).attribute(X, 1))
    with pytest.raises(RectifierCoverageError, match="plain gradient"):
        Deconvnet(model, uncovered="raise").attribute(X, 1)
    assert str(coverage(model, X)) == "overridden: nothing; every method returns the plain gradient"


def test_all_that_is_left_is_said_in_one_warning():
    model = nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.ReLU(), nn.LeakyReLU(), nn.GELU())
    with pytest.raises(RectifierCoverageError) as said:
        GuidedBackprop(model, uncovered="raise").attribute(X, 1)
    assert str(said.value) == (
        "left with its ordinary gradient: GELU (GeluBackward0): 2; "
        'activations="all" overrides it, which no paper defines; '
        'LeakyReLU (LeakyReluBackward0): 1; activations="leaky" overrides it'
    )


def test_no_rectifier_below_a_neuron_or_above_a_layer_is_normal(model, images):
    NeuronDeconvnet(model, model.conv1, uncovered="raise").attribute(images, (0, 1, 1))
    LayerGuidedBackprop(model, model.fc, uncovered="raise").attribute(images, 1)
    GuidedGradCam(model, model.fc, uncovered="raise")


def test_custom_functions_are_opaque():
    def forward(x):
        return torch.relu(Opaque.apply(x)).sum(1)

    (finding,) = coverage(forward, X).uncovered
    assert (finding.node, finding.family) == ("OpaqueBackward", "opaque")
    with pytest.warns(RectifierCoverageWarning, match="OpaqueBackward.*no rule can reach inside"):
        Deconvnet(forward).attribute(X)


def test_module_backward_hooks_and_roi_align_hide_nothing():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    model[0].register_full_backward_hook(lambda *_: None)
    assert coverage(model, X).complete

    def detect(x):
        boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
        return torch.relu(torchvision.ops.roi_align(x, boxes, 2)).flatten(1).sum(1)

    assert coverage(detect, torch.rand(1, 3, 8, 8)).complete


def test_a_rectifier_on_a_slice_is_reported_and_other_slices_are_not():
    def rectified(x):
        y = x * 1
        y[:, :3].relu_()
        return torch.relu(y).sum(1)

    def written(x):
        y = x * 1
        y[:, :3] *= 2
        return torch.relu(y).sum(1)

    (finding,) = coverage(rectified, X).uncovered
    known = "in-place ReLU on a slice"
    unknown = "in-place call on a slice, of a kind this torch does not tell"
    assert (finding.node, finding.operation) == ("CopySlices", known if TELLS else unknown)
    assert coverage(written, X).complete is TELLS
    with pytest.raises(RectifierCoverageError, match="slice"):
        Deconvnet(rectified, uncovered="raise").attribute(X)


@pytest.mark.skipif(not TELLS, reason="this torch does not tell what a call on a view computed")
def test_a_call_in_place_on_a_view_of_the_whole_is_known_by_what_it_computed():
    def forward(function):
        def run(x):
            y = x * 1
            function(y[:])
            return y.sum(1)

        return run

    names = ("overridden", "uncovered", "ordinary")
    found = {
        name: [named(getattr(coverage(forward(function), X), part)) for part in names]
        for name, function in {
            "ReLU": torch.relu_,
            "ReLU6": lambda y: F.relu6(y, inplace=True),
            "clamp": lambda y: y.clamp_(min=0),
            "no rectifier": lambda y: F.threshold_(y, 0.5, 0),
            "nothing": lambda y: y.mul_(2),
        }.items()
    }
    assert found == {
        "ReLU": [{"ReLU": 1}, {}, {}],
        "ReLU6": [{"ReLU6": 1}, {}, {}],
        # Where its input equals the bound cannot be read inside: so it is named.
        "clamp": [{}, {"in-place clamp on a slice": 1}, {}],
        "no rectifier": [{}, {}, {}],
        "nothing": [{}, {}, {}],
    }


def test_what_is_computed_in_no_module_has_no_place():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    (relu,) = coverage(lambda x: model(torch.relu(x)), X).overridden
    assert (relu.count, relu.modules) == (2, ("1",))


def test_additional_arguments_are_the_models():
    def forward(x, by, function):
        return function(x * by).sum(1)

    found = coverage(forward, X, (2.0, F.relu6))
    assert named(found.overridden) == {"ReLU6": 1}


def test_a_reentrant_checkpoint_is_an_error_that_says_what_to_do():
    def reentrant(x):
        return checkpoint(torch.relu, x, use_reentrant=True).sum(1)

    for call in (
        lambda: Deconvnet(reentrant, uncovered="ignore").attribute(X),
        lambda: coverage(reentrant, X),
        lambda: compare(reentrant, X),
    ):
        with pytest.raises(RectifierCoverageError, match="use_reentrant=False"):
            call()
    with pytest.raises(RuntimeError, match="use_reentrant=False"):  # torch's own
        InputGradient(reentrant).attribute(X)


def test_a_frozen_branch_is_not_reported():
    def forward(x):
        with torch.no_grad():
            gate = F.gelu(x)
        return (torch.relu(x) * gate).sum(1)

    assert coverage(forward, X).complete


def test_rectifiers_on_the_weights_are_none_of_the_inputs():
    weight = torch.randn(3, 6, requires_grad=True)

    def forward(x):
        return torch.relu(F.linear(x, F.gelu(weight))).sum(1)

    found = coverage(forward, X)
    assert found.complete
    assert named(found.overridden) == {"ReLU": 1}


def test_outputs_of_any_structure():
    def forward(x):
        return {"a": [torch.relu(x), None], "b": (F.gelu(x), 3)}

    found = coverage(forward, X)
    assert (named(found.overridden), named(found.uncovered)) == ({"ReLU": 1}, {"GELU": 1})
    with pytest.raises(RuntimeError, match="no output"):
        coverage(lambda x: {"a": x.detach()}, X)


def test_a_report_is_of_a_pass_that_leaves_the_model_as_it_was(monkeypatch):
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU()).train()
    snapshot, passes, run = Snapshot(model, X), [], forward.run
    monkeypatch.setattr(forward, "run", lambda *given: passes.append(given[3]) or run(*given))
    assert coverage(model, X).complete
    snapshot.assert_unchanged()
    # Of which the run is told, so that it can be run again where it loads the compiler.
    assert [type(held) for held in passes] == [modes.Pass]


def test_coverage_in_train_mode_of_dropout_warns_once():
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(), nn.ReLU()).train()
    with pytest.warns(UserWarning, match="train mode.*Dropout"):
        compare(model, X, 1)


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_hold_gates_and_no_rectifier(recurrent):
    layer = recurrent(6, 4, batch_first=True)

    def forward(x):
        return torch.relu(layer(x)[0]).flatten(1)

    x = torch.randn(2, 3, 6)
    found = coverage(forward, x)
    assert found.complete
    assert found.ordinary
    GuidedBackprop(forward, uncovered="raise").attribute(x, 1)


class CudnnRnnBackward0:
    """As a GPU's node shows itself; tests with a GPU meet the real one."""

    def __init__(self, mode):
        self._saved_mode = mode
        self.next_functions = ()


def test_a_cudnn_rnn_is_told_by_its_mode(monkeypatch):
    relu, gated = CudnnRnnBackward0(0), CudnnRnnBackward0(1)
    monkeypatch.setattr(rectifiers, "_between", lambda *_: [relu, gated])
    found = rectifiers.survey([], [])
    assert found.rectifiers == ()
    assert found.uncovered == ((relu, "opaque", "cuDNN RNN of ReLU units"),)
    assert found.ordinary == ((gated, "ordinary", "RNN of tanh units, LSTM or GRU"),)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_leaky_rectifier_of_no_slope_is_a_relu(in_place):
    model = nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU(0.0, in_place), nn.Linear(4, 2))
    assert named(coverage(model, X).overridden) == {"LeakyReLU(0)": 1}
    relu = nn.Sequential(model[0], nn.ReLU(), model[2])
    for cls in (GuidedBackprop, Deconvnet):
        ruled = cls(model, uncovered="raise").attribute(X, 1)
        assert torch.equal(ruled, cls(relu).attribute(X, 1))
    assert not torch.equal(ruled, InputGradient(model).attribute(X, 1))
