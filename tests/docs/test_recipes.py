"""The recipes of the documentation run, its commands exist, and its reference misses no name."""

import doctest
import re
from pathlib import Path

import pytest
import torch
import typer.main
from fences import read_commands, read_fences

import captum_deconv
from captum_deconv import adjoint, experiments, mirror
from captum_deconv.cli import app

DOCS = Path(__file__).parents[2] / "docs"
README = DOCS.parent / "README.md"
PAGES = [path for path in sorted(DOCS.glob("*.md")) if ">>> " in path.read_text(encoding="utf-8")]


def run_recipes(page, text):
    test = doctest.DocTestParser().get_doctest(text, {"__name__": page}, page, page, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said = []
    return runner.run(test, out=said.append), "".join(said)


# Captum's own, of its own doings.
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
# Lightning's own advice, and torch's on Lightning's own calls.
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_recipes_run(path):
    with torch.random.fork_rng():
        found, said = run_recipes(path.name, read_fences(path.read_text(encoding="utf-8"), "pycon"))
    assert found.failed == 0, said
    # Nothing that looks like a recipe stands outside what was run.
    prompts = len(re.findall(r"^>>> ", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert found.attempted == prompts > 0


def test_a_wrong_recipe_fails():
    page = "Text\n\n```pycon\n>>> 1 + 1\n3\n\n```\n\n```console\n>>> nothing\n```\n"
    found, said = run_recipes("page", read_fences(page, "pycon"))
    assert (found.failed, found.attempted) == (1, 1)
    assert 'File "page", line 4' in said


@pytest.mark.parametrize("path", [README, *sorted(DOCS.glob("*.md"))], ids=lambda path: path.stem)
def test_commands_and_their_options_exist(path):
    commands = typer.main.get_command(app).commands
    for _, name, *rest in read_commands(path.read_text(encoding="utf-8")):
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= known, (name, *rest)
        assert "--colour" not in known


def test_commands_are_read_from_fences_only():
    page = "captum-deconv a\n\n```\ncaptum-deconv b -o 'c d' \\\n    --e  # f\nmake g\n```\n"
    assert read_commands(page) == [["captum-deconv", "b", "-o", "c d", "--e"]]
    assert len(read_commands(README.read_text(encoding="utf-8"))) > 10


@pytest.mark.parametrize(
    "module", [captum_deconv, adjoint, experiments, mirror], ids=lambda m: m.__name__
)
def test_the_reference_has_every_public_name(module):
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto(?:class|function|exception):: (\S+)$", text, re.MULTILINE)
    missing = {f"{module.__name__}.{name}" for name in module.__all__} - set(named)
    # An alias is told of where the class is.
    assert missing <= {"captum_deconv.Deconvolution"}
    assert "Deconvolution" in text
    assert f"{module.__name__}.Missing" not in named
