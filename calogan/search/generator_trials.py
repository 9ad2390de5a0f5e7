"""Generators of a search: one trained, quantized and measured, its record on disk, and its judgement in the end.

Weights see the training split, candidates are compared on the validation split, which also chooses the epoch of each,
and those that are as good and as fast as any are judged on the test split.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from calogan import provenance, steps
from calogan.atomic_files import write_json
from calogan.benchmark import cores
from calogan.benchmark.precisions import benchmark
from calogan.config import Config
from calogan.errors import ModelError, QuantizationError, TrainingError
from calogan.generation import generator
from calogan.search import generator_proposals
from calogan.search.generator_proposals import FIDELITY, Attempt, Candidate, Choices
from calogan.search.records import Failure, Records
from calogan.training.loop import Epoch
from calogan.training.selection import Scored
from calogan.validation.report import ValidationReport

_SEED = 40_000  # no other step draws showers with it
_RECORDS, _CHOICES = "candidates", "choices.json"


def attempt(
    config: Config, choices: Choices, folder: Path, *, on_epoch: Callable[[Epoch], None] | None = None
) -> Attempt:
    """Train and measure a candidate on a core of its own; a training that was stopped goes on.

    Args:
        config: what the search started from.
        choices: how the candidate differs from it.
        folder: of the search.
        on_epoch: called after every epoch.

    Returns:
        the candidate, or why there is none: a training that collapses is a result too.
    """
    variant, model = generator_proposals.configure(config, choices), model_folder(folder, choices)
    model.mkdir(parents=True, exist_ok=True)
    write_json(model / _CHOICES, dict(choices))
    with cores.own_core():
        try:
            trained = steps.train_model(variant, model, on_epoch=on_epoch)
            started = time.perf_counter()
            steps.quantize_model(variant, model)
            scored = _measure(variant, model)
            timed = benchmark(model, ("int8",), variant.benchmark)
        except (TrainingError, QuantizationError) as error:
            return Failure(choices, str(error))
    means = {name: float(np.mean([one.metrics.get(name, np.nan) for one in scored])) for name in scored[0].metrics}
    means["physics/score"] = float(np.mean([one.score for one in scored]))
    metrics = {name: value for name, value in means.items() if np.isfinite(value)} | timed.metrics("int8")
    seconds = sum(epoch.seconds for epoch in trained.history) + time.perf_counter() - started
    return Candidate(choices, tuple(one.metrics[FIDELITY] for one in scored), metrics, seconds, timed.header)


def judge(config: Config, candidate: Candidate, folder: Path) -> ValidationReport:
    """Judge the int8 showers of a candidate on the test split."""
    return steps.validate_model(
        generator_proposals.configure(config, candidate.choices), model_folder(folder, candidate.choices), "int8"
    )


def model_folder(folder: Path, choices: Choices) -> Path:
    """Where the model of a candidate is, and its training goes on."""
    return records(folder).path(label(choices)).with_suffix("")


def unfinished(folder: Path) -> list[Choices]:
    """Choices of the candidates that were begun and have no record.

    Raises:
        ModelError: what a candidate was begun with cannot be read.
    """
    unfinished_choices: list[Choices] = []
    for path in sorted(folder.glob(f"{_RECORDS}/*/{_CHOICES}")):
        if path.parent.with_suffix(".json").exists():
            continue
        try:
            unfinished_choices.append(dict(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{path}: is damaged ({error}); delete {path.parent}") from error
    return unfinished_choices


def search_folder(config: Config, out: Path) -> Path:
    """Folder for a search; another one whenever a candidate would come out differently. More trials go on in the same."""
    what = config.model_dump(mode="json", exclude={"name", "tuning", "validation"})
    del what["search"]["trials"]
    header = {
        name: value
        for name, value in provenance.header(inputs=steps.data_paths(config)).items()
        if not name.startswith("cpu_")  # a job that moves to another node keeps its candidates
    }
    return out / provenance.digest(json.dumps([what, header], sort_keys=True))[:12]


def records(folder: Path) -> Records[Attempt]:
    """The records of a search."""
    return Records(folder / _RECORDS, TypeAdapter(Attempt))


def label(choices: Choices) -> str:
    """Key of the record of a candidate."""
    return json.dumps(dict(choices), sort_keys=True)


def _measure(config: Config, model: Path) -> list[Scored]:
    """What is measured of each repeat, on the validation split."""
    reference = steps.read_split(config, "validation")
    energy = np.repeat(reference.energy, config.search.draws)
    sampler = generator.load(model, precision="int8")
    return [
        steps.measure_showers(reference, sampler.sample(energy, seed=_SEED + repeat))
        for repeat in range(config.search.repeats)
    ]
