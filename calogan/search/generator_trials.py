"""Candidates of the generator search: training, quantization, measurement, records on disk, and the final validation.

Candidates are trained on the training split and compared on the validation split, which also chooses their best epochs.
Those on the Pareto front are validated on the test split.
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
    """Train and measure a candidate on its own core; an interrupted training resumes.

    Args:
        config: base configuration of the search.
        choices: the candidate's changes to it.
        folder: folder of the search.
        on_epoch: called after every epoch.

    Returns:
        The candidate, or the failure: a collapsed training is a result too.
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
    """Validate the int8 showers of a candidate on the test split."""
    return steps.validate_model(
        generator_proposals.configure(config, candidate.choices), model_folder(folder, candidate.choices), "int8"
    )


def model_folder(folder: Path, choices: Choices) -> Path:
    """Folder of the model of a candidate, including its training."""
    return records(folder).path(label(choices)).with_suffix("")


def unfinished(folder: Path) -> list[Choices]:
    """Choices of the candidates that were started and have no record yet.

    Raises:
        ModelError: the stored choices of a candidate cannot be read.
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
    """Folder of a search: a hash of all that affects a candidate, but not of the number of trials."""
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
    """Metrics and score of each repeat, on the validation split."""
    reference = steps.read_split(config, "validation")
    energy = np.repeat(reference.energy, config.search.draws)
    sampler = generator.load(model, precision="int8")
    return [
        steps.measure_showers(reference, sampler.sample(energy, seed=_SEED + repeat))
        for repeat in range(config.search.repeats)
    ]
