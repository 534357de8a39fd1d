"""The comparison with other libraries: it runs without them, and its page is of its numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from libraries import exactness, page, peers, state, summary, threads, traps
from parts import readme

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "libraries-cpu.json"


class Wrong(peers.Peer):
    """A library that returns the gradient for every method, and leaves hooks."""

    def attribute(self, method, model, inputs, target):
        for module in model.modules():
            module.register_forward_hook(lambda *_: None)
        return peers.Bare().attribute(method, model, inputs, target)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
def test_it_runs_without_the_others(tmp_path):
    out, text = tmp_path / "result.json", tmp_path / "page.md"
    command = [sys.executable, str(ROOT / "benchmarks" / "libraries"), "--quick", "--libraries"]
    command += ["captum-deconv", "zennit", "--environments", str(tmp_path / "environments")]
    command += ["--out", str(out), "--page", str(text), "--block", "50"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    result = json.loads(out.read_text())
    assert result["libraries"]["zennit"] == {"missing": "not installed"}
    assert set(result["exactness"]) == {"captum-deconv"}
    found = result["exactness"]["captum-deconv"]
    wrong = {name for name, cells in found.items() if any(map(exactness.is_wrong, cells.values()))}
    assert wrong == {"sliced in place"}
    assert all("warned" in found["sliced in place"][rule] for rule in peers.METHODS[1:])
    assert result["state"]["captum-deconv"]["after an exception"]["deconvnet"] == {
        "raised": "ZeroDivisionError",
        "changed": [],
    }
    assert result["threads"]["captum-deconv"]["calls"]["wrong"] == 0
    assert result["speed"]["resnet18, batch 1"]["one attribution"]["captum-deconv"]["time"] > 0
    assert "| zennit |  | not installed |" in text.read_text()
    again = subprocess.run([*command, "--only", "exactness"], capture_output=True, text=True)
    assert again.stdout.count("exactness") == 0, "what is recorded is not measured again"


def test_every_trap_is_one_for_somebody_but_the_plain_network():
    assert len(traps.TRAPS) == 21
    for name in ("functional", "two branches", "skip before the rectifier"):
        cells = exactness.measure(peers.Captum(), name)
        assert cells["input_gradient"]["error"] == 0
        assert exactness.is_wrong(cells["deconvnet"]), name
        assert exactness.is_wrong(cells["deconvnet"]["again"]), name
    plain = exactness.measure(peers.Captum(), traps.PLAIN)
    assert plain == {method: {"error": 0.0} for method in peers.METHODS}


def test_control_a_library_that_is_wrong_is_found():
    cells = exactness.measure(Wrong(), traps.PLAIN)
    assert [page.judge(cells[m]) for m in peers.METHODS] == ["exact", *["wrong, silently"] * 2]
    assert state.measure(Wrong(), peers.GUIDED, fails=True)["changed"][0] == "hooks"
    found = threads.count_wrong(Wrong(), calls=9)
    assert (found["wrong"], found["raised"], found["unfinished"]) == (6, 0, 0)


def test_what_a_library_does_to_a_network_is_undone_before_the_next():
    model = state.Network(fails=False)
    before = state.look_at(model, torch.zeros(1))
    kept = state.Kept(model)
    Wrong().attribute(peers.GUIDED, model, (torch.randn(2, 3, 8, 8),), 1)
    model[2] = torch.nn.Identity()
    model.eval()
    assert state.look_at(model, torch.zeros(1)) != before
    kept.restore()
    after = state.look_at(model, torch.zeros(1))
    assert [name for name in before if before[name] != after[name]] == ["parameters or buffers"]


def test_a_cell_is_the_better_of_two_ways():
    cell = {"error": 0.5, "again": {"error": 0.0}}
    assert page.judge(cell) == "exact"
    assert page.judge({"raised": "ValueError", "again": {"error": 0.5, "warned": "so"}}) == (
        "wrong, warned"
    )
    assert page.judge({"error": float("nan")}) == "wrong, silently"
    assert page.judge({"cannot": True}) == "cannot"


def test_the_page_is_of_the_committed_numbers(tmp_path):
    record = json.loads(RESULT.read_text())
    page.write_page(tmp_path / "page.md", record)
    assert (ROOT / "docs" / "libraries.md").read_text() == (tmp_path / "page.md").read_text()
    assert set(record["exactness"]) == set(peers.LIBRARIES) - {"torch-lucent"}
    for name, found in record["exactness"].items():
        assert set(found) == set(exactness.list_networks()), name


def test_the_readmes_table_is_of_the_committed_numbers():
    lines = summary.summarise(json.loads(RESULT.read_text()))
    found = readme.find_table("libraries", readme.README.read_text())
    assert found.group(1).splitlines() == lines
    with pytest.raises(ValueError, match="no place for a table"):
        readme.find_table("no such table", "")


def test_the_extra_names_what_the_benchmark_installs():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    text = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = {kind.requirements[0] for kind in peers.LIBRARIES.values() if kind.requirements}
    assert named == set(text["project"]["optional-dependencies"]["peers"])
