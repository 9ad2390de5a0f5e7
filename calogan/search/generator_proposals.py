"""The search for a generator: from the history to the next candidate to train, and the Pareto front.

There are two objectives: the AUC of boosted trees that separate a candidate's int8 showers from Geant4's, and the time
of one shower. Gates test means, which are right for every trained `lean`; trees detect finer differences. The next
choices come from Optuna's multi-objective tree-structured Parzen estimator (Ozaki et al. 2022, J. Artif. Intell. Res.
73, 1209). Nothing here trains a network, so the search can be read, tested and repeated on its own.
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
Choices: TypeAlias = Mapping[str, Value]  # by `section.name` of the configuration
COST, FIDELITY = "perf/ms_per_shower", "physics/auc_high_level"
_RANDOM = 8  # random candidates before the estimator has enough data


@dataclass(frozen=True)
class Candidate:
    """A trained and quantized generator with its results.

    Attributes:
        choices: values of the settings that the search varies.
        aucs: area under the ROC curve of trees that separate its int8 showers from the validation split, for each
            repeat of the sampling; 0.5 for indistinguishable showers.
        metrics: means over the repeats of the gates' metrics, and results of the benchmark.
        seconds: duration of training, quantization and measurement, s.
        header: provenance, including the processor of the benchmark.
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
        """Mean AUC; lower is better."""
        return float(np.mean(self.aucs))

    @property
    def auc_error(self) -> float:
        """Statistical error of the AUC from the generated showers and the training of the trees."""
        return float(np.std(self.aucs, ddof=1) / np.sqrt(len(self.aucs)))

    @property
    def cost(self) -> float:
        """Total time of an int8 shower, core-ms."""
        return self.metrics[COST]


Attempt: TypeAlias = Candidate | Failure[Choices]


def check(config: Config) -> None:
    """Check all choices of the search.

    Raises:
        ConfigError: a choice is not a setting of the configuration, or has an invalid value.
    """
    for choice in config.search.choices:
        for value in choice.values:
            configure(config, {choice.name: value})


def configure(config: Config, choices: Choices) -> Config:
    """The configuration with the values of some choices.

    Raises:
        ConfigError: a choice is not a setting of the configuration, or has an invalid value.
    """
    content = config.model_dump()
    for name, value in choices.items():
        section, _, key = name.partition(".")
        if section not in {"network", "training", "quantization"} or key not in content[section]:
            raise ConfigError(
                f"search.choices: {name!r} is not a setting; expected a key of [network], [training] or "
                "[quantization], such as 'network.width'"
            )
        content[section][key] = value
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"search.choices: {'; '.join(problem['msg'] for problem in error.errors())}") from error


def propose(config: Config, history: Sequence[Attempt], running: Sequence[Choices]) -> Choices | None:
    """Propose the next candidate; None at the end of the search.

    The first candidate is the configuration itself, if the choices include its values.

    Args:
        config: configuration with the choices and the number of candidates.
        history: finished candidates and failures, in any order; a failure counts as a candidate.
        running: choices of the candidates in progress.
    """
    space = {choice.name: choice.values for choice in config.search.choices}
    earlier = [dict(each) for each in (*(attempt.what for attempt in history), *running)]
    if len(earlier) >= config.search.trials:
        return None
    start = {name: _value(config, name) for name in space}
    if start not in earlier and all(start[name] in values for name, values in space.items()):
        return start
    # Values are encoded by their position in the list, so neighbours in the list are assumed to be similar.
    distributions: dict[str, BaseDistribution] = {
        name: IntDistribution(0, len(values) - 1) for name, values in space.items()
    }
    number = len(earlier)
    sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=_RANDOM, multivariate=True, constant_liar=True)
    study = _study(sampler)

    def places(choices: Choices) -> dict[str, int]:
        return {name: values.index(choices[name]) for name, values in space.items()}

    trial = functools.partial(create_trial, distributions=distributions)
    # The proposal depends on the order of the trials, so they are sorted: it must not matter which finished first.
    for attempt in sorted((each for each in history if isinstance(each, Candidate)), key=_label):
        study.add_trial(trial(params=places(attempt.choices), values=[attempt.auc, attempt.cost]))
    for choices in running:
        study.add_trial(trial(params=places(choices), state=TrialState.RUNNING))
    proposal = {name: space[name][place] for name, place in study.ask(distributions).params.items()}
    return proposal if proposal not in earlier else _new_combination(space, earlier, number)


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The Pareto front in AUC and cost, the fastest candidate first."""
    ordered = sorted(candidates, key=lambda candidate: (candidate.cost, candidate.auc))
    best = itertools.accumulate((candidate.auc for candidate in ordered), min, initial=np.inf)
    return [candidate for candidate, before in zip(ordered, best, strict=False) if candidate.auc < before]


def describe(choices: Choices) -> str:
    """Describe choices in one line, for display."""
    return ", ".join(f"{name.partition('.')[2]} {value}" for name, value in choices.items())


def summary(attempt: Attempt) -> str:
    """Describe the result of a candidate in one line, for display."""
    if isinstance(attempt, Failure):
        return f"{describe(attempt.what)}: failed, {attempt.reason}"
    return (
        f"{describe(attempt.choices)}: AUC {attempt.auc:.3f} +- {attempt.auc_error:.3f}, "
        f"{attempt.cost:.3f} core-ms, {attempt.seconds / 60:.1f} min"
    )


def _study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)


def _new_combination(space: Mapping[str, Sequence[Value]], earlier: Sequence[Choices], seed: int) -> Choices | None:
    combinations = (dict(zip(space, values, strict=True)) for values in itertools.product(*space.values()))
    rest = [choices for choices in combinations if choices not in earlier]
    return random.Random(seed).choice(rest) if rest else None  # noqa: S311 - not security-relevant


def _value(config: Config, name: str) -> Value:
    section, _, key = name.partition(".")
    value: Value = getattr(getattr(config, section), key)
    return value


def _label(candidate: Candidate) -> str:
    return json.dumps(dict(candidate.choices), sort_keys=True)
