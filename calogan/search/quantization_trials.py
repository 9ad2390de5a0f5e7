"""Trials of quantizations: one trial, its record on disk, and the adoption of the best one into the model.

The splits are never mixed: ranges of activations come from the calibration split, trials are compared on the validation
split, and the adopted trial is validated on the test split.
"""

import functools
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from calogan import provenance, steps
from calogan.benchmark import cores
from calogan.benchmark.precisions import benchmark
from calogan.config import Config, Quantization
from calogan.errors import GateError, ModelError, QuantizationError
from calogan.events import Events
from calogan.generation import generator, model_folder
from calogan.search.quantization_proposals import Attempt, Trial, describe
from calogan.search.records import Failure, Records, sole_search
from calogan.validation.report import ValidationReport, physics_score

_FOLDER = "tuning"  # in a model
_SEED = 30_000  # no other step draws showers with it
_SHOWERS = 2_000  # of the validation split are used: far fewer distinguish a pair of precisions


def attempt(config: Config, model: Path, quantization: Quantization) -> Attempt:
    """Quantize a model, score its showers on the validation split and time it, on its own core.

    Args:
        config: splits, repeats and rounds; its quantization is ignored.
        model: folder of a trained model.
        quantization: the configuration to try.

    Returns:
        The trial, or the failure: an impossible configuration is a result too.
    """
    with cores.own_core(), tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        started = time.perf_counter()
        variant = config.model_copy(update={"quantization": quantization})
        try:
            steps.quantize_model(variant, model, Path(scratch))
            scores = _scores(config, Path(scratch), "int8")
            timed = benchmark(scratch, ("int8",), config.benchmark)
            operations = timed.timings["int8"].operations
            performance = timed.metrics("int8") | {"quant/bfloat16_arithmetic": operations.bfloat16_arithmetic}
            float32_scores = _float32_scores(config, model, model_folder.read(model).version("float32"))
            return Trial(quantization, scores, float32_scores, performance, time.perf_counter() - started, timed.header)
        except QuantizationError as error:
            return Failure(quantization, str(error))


def adopt(config: Config, model: Path, ranked: Sequence[Trial]) -> tuple[Trial, ValidationReport]:
    """Validate trials on the test split, in order, until one passes its gates, and adopt that one into the model.

    Returns:
        The adopted trial and its report.

    Raises:
        GateError: none of the first `tuning.attempts` trials passed; the model is unchanged.
    """
    failures = []
    for trial in ranked[: config.tuning.attempts]:
        variant = config.model_copy(update={"quantization": trial.quantization})
        with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
            steps.quantize_model(variant, model, Path(scratch))
            report = steps.validate_model(variant, Path(scratch), "int8")
            physics_score(report)  # raises if no gate was measured
            if not report.failed:
                _put_into(model, Path(scratch))
                return trial, report
        failures.append(f"{describe(trial.quantization)} fails {', '.join(report.failed)}")
    raise GateError(f"no trial passes its gates on the test split: {'; '.join(failures)}; the model is unchanged")


def records_folder(config: Config, model: Path) -> Path:
    """Folder in a model for the records of its trials; its name is a hash of all that affects a trial."""
    description = model_folder.read(model)
    int8 = description.network_files.get("int8")  # the search replaces this file, so the records must not depend on it
    header = provenance.header(inputs=steps.data_paths(config))
    what = {
        "model": sorted(hash_ for name, hash_ in description.sha256.items() if name != int8),
        "config": config.model_dump(mode="json", include={"data", "benchmark"}),
        "tuning": config.tuning.model_dump(include={"draws", "repeats"}),
        # The processor is left out: a job that moves to another node keeps its trials, because their speeds are ratios.
        "header": {name: value for name, value in header.items() if not name.startswith("cpu_")},
    }
    return model / _FOLDER / provenance.digest(json.dumps(what, sort_keys=True))[:12]


def sole_tuning(model: Path) -> AbstractContextManager[None]:
    """Keep other searches for a quantization off a model: they would make the same trials and log to the same run.

    Raises:
        ModelError: another process tunes it.
    """
    return sole_search(model / _FOLDER)


def records(folder: Path) -> Records[Attempt]:
    """The records of trials in a folder."""
    return Records(folder, TypeAdapter(Attempt))


def label(quantization: Quantization) -> str:
    """Key of the record of a trial."""
    return quantization.model_dump_json()


def _put_into(model: Path, quantized: Path) -> None:
    """Replace the int8 network of a model by that of its quantized copy.

    Raises:
        ModelError: the model has changed since it was quantized.
    """
    description, source = model_folder.read(model), model_folder.read(quantized)
    if source.version("float32") != description.version("float32"):
        raise ModelError(f"{model}: was replaced while its quantizations were validated; start the search again")
    model_folder.check_files(quantized, source, "int8")
    network = (quantized / source.network_files["int8"]).read_bytes()
    model_folder.replace_network(model, description, network, source.quantization, weight_bits=source.weight_bits)


@functools.lru_cache(maxsize=1)
def _float32_scores(config: Config, model: Path, _version: str) -> tuple[float, ...]:
    """Scores of the float32 network, computed once per process."""
    return _scores(config, model, "float32")


def _scores(config: Config, folder: Path, precision: str) -> tuple[float, ...]:
    """Score without classifier of each repeat; a repeat has its own seed, the same for every precision."""
    reference: Events = steps.read_split(config, "validation")[:_SHOWERS]
    energy = np.repeat(reference.energy, config.tuning.draws)
    sampler = generator.load(folder, precision=precision)
    return tuple(
        steps.score_without_classifier(reference, sampler.sample(energy, seed=_SEED + repeat))
        for repeat in range(config.tuning.repeats)
    )
