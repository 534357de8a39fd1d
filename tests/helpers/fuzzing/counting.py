"""Run examples, and count what was drawn and what came of it."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, reject, seed, settings

from fuzzing.asking import Answered, answer
from fuzzing.networks import HEADS, LAYOUTS, UnusableError
from fuzzing.plans import QUESTIONS, Plan, Question, plans

CHUNK = 50
"""Examples that hypothesis draws with one seed. Many small lots differ more than one large one."""


class Counts:
    """What was drawn and compared, by heading and name."""

    def __init__(self) -> None:
        self.by_heading: dict[str, Counter[str]] = defaultdict(Counter)
        self.errors: dict[str, float] = {}

    def add(self, answered: Answered) -> None:
        """Count an example."""
        question, plan = answered.question, answered.built.plan
        count = self.by_heading
        count["answers"][answered.answer] += 1
        count["equal bit for bit"][str(answered.exact)] += 1
        count["the rule made a difference"][str(answered.telling)] += 1
        count["zero throughout"][str(answered.zero)] += 1
        for name in ("kind", "activations", "memory", "uncovered", "mode", "each"):
            count[name][str(getattr(question, name))] += 1
        for name in ("dtype", "batch", "dimensions", "head", "layout", "training", "chain"):
            count[name][str(getattr(plan, name))] += 1
        count["neurons on crops"][str(answered.cropped)] += 1
        count["inputs"][str(len(answered.built.inputs))] += 1
        count["steps"]["drawn"] += len(plan.steps)
        count["steps"]["fitting"] += sum(
            not made.startswith("place") for made in answered.built.made
        )
        for made in answered.built.made:
            heading, _, name = made.partition(": ")
            count[heading][name] += 1
        kind = "autocast" if question.mode == "autocast" else plan.dtype
        self.errors[kind] = max(self.errors.get(kind, 0.0), answered.error)

    def merge(self, record: dict[str, Any]) -> None:
        """Add the counts of a record."""
        for heading, names in record["counts"].items():
            self.by_heading[heading].update(names)
        for kind, error in record["largest relative error"].items():
            self.errors[kind] = max(self.errors.get(kind, 0.0), error)

    @property
    def examples(self) -> int:
        """How many examples were compared."""
        return sum(self.by_heading["answers"].values())

    def to_record(self) -> dict[str, Any]:
        """Return the counts as JSON takes them, the most frequent first."""
        return {
            "examples": self.examples,
            "counts": {
                heading: dict(names.most_common()) for heading, names in self.by_heading.items()
            },
            "largest relative error": dict(sorted(self.errors.items())),
        }


def run_chunk(number: int, counts: Counts, *, shrink: bool = True) -> None:
    """Run a lot of examples.

    Args:
        number: Its seed.
        counts: Gets what came of them; of networks that fail by themselves, only how many.
        shrink: Whether an example that fails is made as small as can be.

    Raises:
        AssertionError: If the package is wrong, with the network and the question.
    """
    counted = True

    def run(plan: Plan, question: Question) -> None:
        nonlocal counted
        try:
            answered = answer(plan, question)
        except UnusableError:
            if counted:
                counts.by_heading["networks that fail by themselves"]["drawn anew"] += 1
            reject()
        except BaseException:
            counted = False  # what follows are ever smaller versions of this
            raise
        if counted:
            counts.add(answered)

    prepare(run, number, shrink=shrink)()


def prepare(run: Callable[[Plan, Question], None], number: int, *, shrink: bool) -> Any:
    """Return a test of some examples drawn with a seed."""
    chosen = settings(
        max_examples=CHUNK,
        deadline=None,
        database=None,
        print_blob=False,  # which hypothesis turns on where CI is in the environment
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    drawn = given(plan=plans(list(HEADS), list(LAYOUTS)), question=QUESTIONS)
    return seed(number)(chosen(drawn(run)))
