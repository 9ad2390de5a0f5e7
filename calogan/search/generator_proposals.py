"""The search for a generator: candidates so far -> what to train next, and which are worth their time.

There are two objectives, how well boosted trees tell a candidate's int8 showers from Geant4's and the measured time of
one. Gates look at means, which every trained `lean` has right; trees see what sets candidates apart. Which choices are tried next is left to Optuna's tree-structured Parzen estimator for several objectives (Ozaki et al. 2022, J. Artif.
Intell. Res. 73, 1209). Nothing here trains a network, so the search can be read, tested and repeated on its own.
"""

import functools
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from pydantic import ValidationError

from calogan.config import Config
from calogan.errors import ConfigError
from calogan.search.records import Failure

Value: TypeAlias = bool | int | float | str
Choices: TypeAlias = Mapping[str, Value]  # by section.name of the configuration
COST, FIDELITY = "perf/ms_per_shower", "physics/auc_high_level"
_RANDOM = 8  # candidates before the estimator has enough to go by


@dataclass(frozen=True)
class Candidate:
    """A generator that was trained, quantized and measured.

    Attributes:
        choices: where its configuration differs from the one the search started from, or may.
        aucs: area under the ROC curve of trees that tell its int8 showers from the validation split, of each drawing of
            the showers; 0.5 cannot be told apart.
        metrics: means over the drawings of what gates look at, and what the benchmark measured.
        seconds: how long it took.
        header: provenance, with the processor that the speed was measured on.
    """

    choices: Choices
    aucs: tuple[float, ...]
    metrics: Mapping[str, float]
    seconds: float
    header: Mapping[str, str]

    @property
    def what(self) -> Choices:
        """What was tried, as a failure calls it."""
        return self.choices

    @property
    def auc(self) -> float:
        """Mean area, lower is better."""
        return float(np.mean(self.aucs))

    @property
    def auc_error(self) -> float:
        """Statistical error of the area that comes from the generated showers and the training of the trees."""
        return float(np.std(self.aucs, ddof=1) / np.sqrt(len(self.aucs)))

    @property
    def cost(self) -> float:
        """Core-ms of an int8 shower, everything included."""
        return self.metrics[COST]


Attempt: TypeAlias = Candidate | Failure[Choices]


def check(config: Config) -> None:
    """Make sure that every choice can be made.

    Raises:
        ConfigError: one names no number of the configuration, or has a value that cannot be.
    """
    for choice in config.search.choices:
        for value in choice.values:
            chosen(config, {choice.name: value})


def chosen(config: Config, choices: Choices) -> Config:
    """The configuration with some choices made.

    Raises:
        ConfigError: one names no number of the configuration, or has a value that cannot be.
    """
    content = config.model_dump()
    for name, value in choices.items():
        section, _, key = name.partition(".")
        if section not in {"network", "training", "quantization"} or key not in content[section]:
            raise ConfigError(
                f"search.choices: {name!r} is nothing that can be chosen; expected a key of [network], [training] or "
                "[quantization], such as 'network.width'"
            )
        content[section][key] = value
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"search.choices: {'; '.join(problem['msg'] for problem in error.errors())}") from error


def propose(config: Config, history: Sequence[Attempt], running: Sequence[Choices]) -> Choices | None:
    """Say what to train next; None when the search has ended.

    The first candidate is the configuration as it stands, if the choices allow it.

    Args:
        config: what may be chosen, and how many candidates there are to be.
        history: what was tried, in any order; a failure counts as a candidate.
        running: what is being tried.
    """
    space = {choice.name: choice.values for choice in config.search.choices}
    tried = [
        dict(each)
        for each in (
            *(attempt.what for attempt in history),
            *running,
        )
    ]
    if len(tried) >= config.search.trials:
        return None
    start = {name: _value(config, name) for name in space}
    if start not in tried and all(start[name] in values for name, values in space.items()):
        return start
    # Values by their place in the list: what is listed side by side is taken to be alike.
    distributions: dict[str, BaseDistribution] = {
        name: IntDistribution(0, len(values) - 1) for name, values in space.items()
    }
    number = len(tried)
    sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=_RANDOM, multivariate=True, constant_liar=True)
    study = _study(sampler)

    def places(choices: Choices) -> dict[str, int]:
        return {name: values.index(choices[name]) for name, values in space.items()}

    known = functools.partial(create_trial, distributions=distributions)
    # The order decides what the estimator finds: it must not depend on which candidate was done first.
    for attempt in sorted((each for each in history if isinstance(each, Candidate)), key=_label):
        study.add_trial(known(params=places(attempt.choices), values=[attempt.auc, attempt.cost]))
    for choices in running:
        study.add_trial(known(params=places(choices), state=TrialState.RUNNING))
    asked = {name: space[name][place] for name, place in study.ask(distributions).params.items()}
    return asked if asked not in tried else _untried(space, tried, number)


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those than which no other is both as good and as fast and one of it more, the fastest first."""
    ordered = sorted(candidates, key=lambda candidate: (candidate.cost, candidate.auc))
    best = itertools.accumulate((candidate.auc for candidate in ordered), min, initial=np.inf)
    return [candidate for candidate, before in zip(ordered, best, strict=False) if candidate.auc < before]


def describe(choices: Choices) -> str:
    """One line for people."""
    return ", ".join(f"{name.partition('.')[2]} {value}" for name, value in choices.items())


def summary(attempt: Attempt) -> str:
    """One line for people about what came out."""
    if isinstance(attempt, Failure):
        return f"{describe(attempt.what)}: failed, {attempt.reason}"
    return (
        f"{describe(attempt.choices)}: AUC {attempt.auc:.3f} +- {attempt.auc_error:.3f}, "
        f"{attempt.cost:.3f} core-ms, {attempt.seconds / 60:.1f} min"
    )


def _study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)


def _untried(space: Mapping[str, Sequence[Value]], tried: Sequence[Choices], seed: int) -> Choices | None:
    combinations = (dict(zip(space, values, strict=True)) for values in itertools.product(*space.values()))
    left = [choices for choices in combinations if choices not in tried]
    return random.Random(seed).choice(left) if left else None  # noqa: S311 - no secret


def _value(config: Config, name: str) -> Value:
    section, _, key = name.partition(".")
    value: Value = getattr(getattr(config, section), key)
    return value


def _label(candidate: Candidate) -> str:
    return json.dumps(dict(candidate.choices), sort_keys=True)
