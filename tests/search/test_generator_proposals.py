import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calogan.config import Choice, Config, Network, Search
from calogan.errors import ConfigError
from calogan.search import generator_proposals
from calogan.search.generator_proposals import Attempt, Candidate, Choices
from calogan.search.records import Failure

WIDTHS, DEPTHS = (32, 64, 128, 256), (1, 2, 3)


def config(trials: int = 40, **names: tuple[int, ...]) -> Config:
    choices = names or {"network.width": WIDTHS, "network.depth": DEPTHS}
    return Config(search=Search(trials=trials, choices=tuple(Choice(name=n, values=v) for n, v in choices.items())))


def candidate(choices: Choices, auc: float, cost: float) -> Candidate:
    return Candidate(choices, (auc, auc), {generator_proposals.COST: cost}, 1.0, {})


def evaluate(choices: Choices) -> Candidate:
    """Wider networks are better and slower, with diminishing returns; a depth of 2 is best."""
    width, depth = int(choices["network.width"]), int(choices["network.depth"])
    return candidate(choices, 0.5 + 8 / width + 0.2 * abs(depth - 2), width * depth / 100)


def run_search(config: Config) -> list[Attempt]:
    history: list[Attempt] = []
    while proposed := generator_proposals.propose(config, history, []):
        history.append(evaluate(proposed))
    return history


def test_the_search_begins_with_the_configuration_as_it_stands_and_tries_nothing_twice() -> None:
    history = run_search(config())
    assert history[0].what == {"network.width": 128, "network.depth": 2}
    combinations = [tuple(attempt.what.values()) for attempt in history]
    assert sorted(combinations) == sorted(itertools.product(WIDTHS, DEPTHS))  # and ends when there is nothing left


def test_a_search_ends_after_its_trials_even_if_they_failed() -> None:
    history: list[Attempt] = [
        Failure({"network.width": 32, "network.depth": 1}, "collapsed"),
        evaluate({"network.width": 64, "network.depth": 1}),
    ]
    running: list[Choices] = [{"network.width": 128, "network.depth": 2}]
    assert generator_proposals.propose(config(3), history, running) is None
    proposed = generator_proposals.propose(config(4), history, running)
    assert proposed is not None
    assert proposed not in [*(attempt.what for attempt in history), *running]


def test_the_start_is_left_out_where_it_cannot_be_chosen() -> None:
    assert generator_proposals.propose(config(40, **{"network.width": (32, 64)}), [], []) in [
        {"network.width": 32},
        {"network.width": 64},
    ]


def test_a_proposal_depends_on_the_history_alone() -> None:
    history = run_search(config(10))
    shuffled = sorted(history, key=lambda attempt: attempt.what["network.width"])
    assert generator_proposals.propose(config(), history, []) == generator_proposals.propose(config(), shuffled, [])


def test_the_front_is_found_sooner_than_by_chance() -> None:
    names = {"network.width": tuple(range(16, 272, 16)), "network.depth": (1, 2, 3, 4, 5, 6)}
    candidates = [attempt for attempt in run_search(config(32, **names)) if isinstance(attempt, Candidate)]
    good = [one for one in candidates[8:] if one.choices["network.depth"] in {1, 2}]  # those of the front have no other
    assert len(good) / len(candidates[8:]) > 0.5  # a third, by chance


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=30))
def test_nothing_beats_the_front_and_it_beats_the_rest(points: list[tuple[int, int]]) -> None:
    candidates = [candidate({"n": i}, float(auc), float(cost)) for i, (auc, cost) in enumerate(points)]
    front = [(each.auc, each.cost) for each in generator_proposals.front(candidates)]
    assert front == sorted(front, key=lambda point: point[1])
    for auc, cost in points:
        assert any(best <= auc and time <= cost for best, time in front)
        for best, time in front:
            assert not (auc <= best and cost <= time and (auc, cost) != (best, time))


def test_choices_are_made_in_the_configuration() -> None:
    configuration = generator_proposals.configure(config(), {"network.width": 32, "training.shape_rate": 4e-3})
    assert configuration.network == Network(width=32)
    assert configuration.training.shape_rate == 4e-3
    generator_proposals.check(Config())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("network.wdith", 64, "'network.wdith' is not a setting"),
        ("data.train", 0.1, "'data.train' is not a setting"),
        ("width", 64, "'width' is not a setting"),
        ("network.width", 10, "multiple of 4"),
        ("network.kernel", 2, "1, 3 or 5"),
    ],
)
def test_an_impossible_choice_is_reported_before_the_search(name: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generator_proposals.check(Config(search=Search(choices=(Choice(name=name, values=(value,)),))))


def test_the_summary_is_one_line() -> None:
    result = Candidate({"network.width": 64}, (0.5, 0.6), {generator_proposals.COST: 0.1234}, 90.0, {})
    assert generator_proposals.summary(result) == "width 64: AUC 0.550 +- 0.050, 0.123 core-ms, 1.5 min"
    assert generator_proposals.summary(Failure({"network.width": 64}, "no")) == "width 64: failed, no"
