"""`make fuzz`: lots that are counted, kept, gone on with, and told where something is wrong."""

import json

import fuzz
from fuzzing import plans

from captum_deconv.engine import rules


def test_lots_are_kept_and_gone_on_with(tmp_path):
    path = tmp_path / "build" / "lots.jsonl"
    seed, lots = fuzz.read_kept(path, None)
    assert lots == []
    lot = fuzz.run_lot(seed)
    assert lot["failure"] is None
    with path.open("a") as kept:
        kept.write(json.dumps(lot) + "\n" + json.dumps(lot)[:-9])
    assert fuzz.read_kept(path, None) == (seed, [lot])
    assert fuzz.read_kept(path, seed) == (seed, [lot])  # and the half of a line is gone
    record = fuzz.summarise(seed, [lot, lot])
    assert record["examples"] == 2 * lot["examples"] == 100
    assert sum(record["counts"]["kind"].values()) == 100
    assert record["failures"] == []
    assert fuzz.read_kept(path, seed + 1) == (seed + 1, [])


def test_what_is_wrong_is_told_as_python(monkeypatch):
    monkeypatch.setitem(rules.RULES, "deconvnet", None)
    lots = (fuzz.run_lot(number) for number in range(6))
    failure = next(lot["failure"] for lot in lots if lot["failure"])
    example = eval(f"dict{failure.partition('run')[2]}", dict(vars(plans)))
    assert isinstance(example["plan"], plans.Plan)
    assert isinstance(example["question"], plans.Question)
