"""Configuration of a pipeline run: one frozen record per step, read from TOML and checked once."""

import json
import os
import tomllib
from pathlib import Path
from typing import Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from calogan.errors import ConfigError, problems
from calogan.packaged import data_file


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(_Step):
    """The showers a model is trained and validated with.

    Attributes:
        path: HDF5 file of Geant4 showers, a folder, a pattern, or a list of these; empty for the sample that comes
            with the package.
        format: format of the files, see `calogan.events`; empty to recognise it.
        energy_low, energy_high: range of Ep in the showers, GeV; the model accepts energies in this range.
        train, validation, calibration, test: shares of the showers, by identity; they add up to 1.
            The weights are trained on train, the best epoch is chosen on validation, INC calibrates on calibration,
            and reports use test.
    """

    path: str | tuple[str, ...] = ""
    format: Literal["", "clic", "clic-x50", "calochallenge", "par04"] = ""
    energy_low: float = Field(2.0, gt=0)
    energy_high: float = Field(500.0, gt=0)
    train: float = Field(0.6, gt=0)
    validation: float = Field(0.08, gt=0)
    calibration: float = Field(0.07, gt=0)
    test: float = Field(0.25, gt=0)

    @property
    def fractions(self) -> dict[str, float]:
        """Share of each part by name."""
        return {"train": self.train, "validation": self.validation, "calibration": self.calibration, "test": self.test}


class Network(_Step):
    """The generator.

    Attributes:
        family: one of `networks.families.FAMILIES`: `lean`, `rehm2021` or `conv3d`.
        width, depth, kernel: channels, number and kernel side of the convolutions of `lean`; other families may use
            these fields for their own networks.
    """

    family: str = "lean"
    width: int = Field(128, ge=8, le=512, multiple_of=4)
    depth: int = Field(2, ge=1, le=6)
    kernel: Literal[1, 3, 5] = 3


class Training(_Step):
    """Training of the generator; published constants are in `training`, the published recipe is `paper.toml`.

    Attributes:
        pretraining_epochs, pretraining_showers: epochs of training the flow of `lean` with parametrised showers, and
            number of these showers.
        flow_epochs, shape_epochs, shape_flow_epochs: epochs of likelihood training of the three parts of `lean`.
        distance_epochs, refinement_epochs: epochs of training by the energy score, first of mean showers, then of how
            showers differ (`rehm2021` and `conv3d` only).
        warmup_epochs: epochs that train only the discriminator, before adversarial training of the generator.
        adversarial_epochs: epochs of adversarial training with the published losses.
        steps_per_epoch: steps of an adversarial epoch, repeating the showers if necessary; 0 for one pass.
        batch_size: showers per step.
        flow_rate, shape_rate, refinement_rate: learning rates of the stages before the adversary; `shape_rate` is also that of
            `distance`.
        generator_rate, discriminator_rate: learning rates of Adam; published 5e-4 and 1e-4.
        energy_score_weight: in adversarial steps of the generator, weight of the energy score relative to the published
            loss. Above 0, showers are compared at the energies of real ones, and rates rise and fall as in `refinement`.
        critic_weight: weight, relative to the published loss, of a second discriminator that sees profiles, hits, spectrum
            and the primary energy; 0 for none.
        critic_rate: its learning rate.
        schedule: `published` decays these rates and restarts Adam as in the authors' code.
        ecal: polynomial for the expected ECAL of a fake at a given energy: `fitted` to the training showers, or
            `published`, which describes the published showers.
        inference_mode: call both networks in adversarial steps as at inference: dropout is inactive, and batch
            normalisation keeps its initial mean 0 and variance 1. The authors' code does so, because it never sets the
            training flag. The stages of the energy score follow it too.
        arithmetic: of the networks; weights stay float32. `auto` is bfloat16 for the published families on processors
            that compute in it, otherwise float32.
        score_every: epochs between two scores; 0 to score only the last epoch of each stage.
        patience: number of scored epochs in a row without a new best after which training ends; 0 for no limit.
        start: model whose weights a training starts from, to adapt it to other showers or to train it further: packaged
            name or folder; empty for new weights.
        seed: seed of weights, shuffling and noise.
    """

    pretraining_epochs: int = Field(0, ge=0)
    pretraining_showers: int = Field(40_000, ge=1)
    flow_epochs: int = Field(30, ge=0)
    shape_epochs: int = Field(40, ge=0)
    shape_flow_epochs: int = Field(20, ge=0)
    distance_epochs: int = Field(0, ge=0)
    refinement_epochs: int = Field(0, ge=0)
    warmup_epochs: int = Field(1, ge=0)
    adversarial_epochs: int = Field(1, ge=0)
    steps_per_epoch: int = Field(0, ge=0)
    batch_size: int = Field(64, ge=2)
    flow_rate: float = Field(1e-3, gt=0)
    shape_rate: float = Field(2e-3, gt=0)
    refinement_rate: float = Field(5e-4, gt=0)
    generator_rate: float = Field(5e-4, gt=0)
    discriminator_rate: float = Field(1e-4, gt=0)
    energy_score_weight: float = Field(0.0, ge=0)
    critic_weight: float = Field(0.0, ge=0)
    critic_rate: float = Field(5e-4, gt=0)
    schedule: Literal["constant", "published"] = "constant"
    ecal: Literal["fitted", "published"] = "fitted"
    inference_mode: bool = False
    arithmetic: Literal["auto", "float32", "bfloat16"] = "auto"
    score_every: int = Field(10, ge=0)
    patience: int = Field(0, ge=0)
    start: str = ""
    seed: int = Field(1, ge=0)


class Quantization(_Step):
    """One Intel Neural Compressor configuration.

    Attributes:
        calibration_showers: number of showers of the calibration split to use.
        granularity: one scale per output channel of a convolution, or one per tensor.
        algorithm: method that determines the range of activations.
        smooth: share of the spread of activations that SmoothQuant moves into the weights; None for no smoothing.
        keep_float32, keep_bfloat16: operations that are not quantized, by their names, such as `convolution 4`; see
            `neural_compressor.name_operations`.
        tune: whether the pipeline starts from this configuration to search for the fastest one that keeps the physics,
            as `ray_jobs.tune` does. Trials never contain this field, so no record holds it.
    """

    calibration_showers: int = Field(64, ge=1)
    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    algorithm: Literal["minmax", "kl"] = "minmax"
    smooth: float | None = Field(None, ge=0, le=1)
    keep_float32: tuple[str, ...] = ()
    keep_bfloat16: tuple[str, ...] = ()
    tune: bool = Field(False, exclude=True)

    @model_validator(mode="after")
    def _one_precision(self) -> Self:
        twice = set(self.keep_float32) & set(self.keep_bfloat16)
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: kept in float32 and in bfloat16; name one precision")
        return self


class Tuning(_Step):
    """The search for a quantization.

    Attributes:
        draws: showers generated for each Geant4 shower of the validation split, in each repeat.
        repeats: number of samples, each with its own random numbers, shared by int8 and float32.
        tolerance: largest accepted loss of the score without classifier, as a fraction of float32's score.
        attempts: largest number of trials to validate on the test split, fastest first, until one passes its gates.
    """

    draws: int = Field(4, ge=1)
    repeats: int = Field(4, ge=2)
    tolerance: float = Field(0.01, ge=0, lt=1)
    attempts: int = Field(3, ge=1)


class Choice(_Step):
    """A number of the configuration that a search may choose.

    Attributes:
        name: section and key, such as `network.width`.
        values: its allowed values.
    """

    name: str
    values: tuple[bool | int | float | str, ...] = Field(min_length=1)


class Search(_Step):
    """The search for a generator.

    Attributes:
        trials: number of generators to train.
        draws: showers generated for each Geant4 shower of the validation split, in each repeat.
        repeats: number of samples, each with its own random numbers.
        choices: the settings to vary.
    """

    trials: int = Field(24, ge=1)
    draws: int = Field(2, ge=1)
    repeats: int = Field(3, ge=2)
    choices: tuple[Choice, ...] = (
        Choice(name="network.width", values=(64, 96, 128, 192)),
        Choice(name="network.depth", values=(1, 2, 3)),
        Choice(name="network.kernel", values=(1, 3, 5)),
        Choice(name="training.shape_rate", values=(1e-3, 2e-3, 4e-3)),
        Choice(name="training.shape_flow_epochs", values=(0, 20, 40)),
    )


# A precision of a model, or its network in another runtime: the kinds of `benchmark.peers.loading`.
Candidate: TypeAlias = Literal[
    "float32", "bfloat16", "float16", "int8", "tflite-float16", "tflite-int8", "onnxruntime-int8", "openvino-int8"
]


class Validation(_Step):
    """The validation of showers.

    Attributes:
        candidates: precisions of the model, and other runtimes for its network, that the pipeline validates, times and logs
            side by side; float32, which the others are compared with, is always among them.
        gates: TOML file of limits, or a packaged name: `default`, or `demo`, whose limits a few hundred showers can
            decide.
        draws: showers generated for each Geant4 shower of the test split.
        thorough: also compare whole distributions, half a minute for each candidate.
        cell_trainings: number of trainings of the cell classifier, for each candidate and for the floor.
    """

    candidates: tuple[Candidate, ...] = Field(("float32", "int8"), max_length=7)
    gates: str = "default"
    draws: int = Field(4, ge=1)
    thorough: bool = True
    cell_trainings: int = Field(3, ge=0, le=20)


class Benchmark(_Step):
    """The measurement of speed.

    Attributes:
        batch_size: showers per call.
        repetitions: interleaved rounds of all precisions.
    """

    batch_size: int = Field(128, ge=1)
    repetitions: int = Field(7, ge=1)


class Config(_Step):
    """All steps; a section missing from the file has its defaults."""

    name: str = "calogan-lean"
    data: Data = Data()
    network: Network = Network()
    training: Training = Training()
    quantization: Quantization = Quantization()
    tuning: Tuning = Tuning()
    search: Search = Search()
    validation: Validation = Validation()
    benchmark: Benchmark = Benchmark()


def packaged_configs() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.stem for path in data_file("configs").glob("*.toml"))


def as_toml(**sections: BaseModel) -> str:
    """Write sections, by name, as a configuration file that repeats these steps."""
    lines = []
    for name, section in sections.items():
        # Strings, numbers and lists of them look the same in TOML and JSON.
        fields = section.model_dump(mode="json", exclude_none=True)
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in fields.items()), ""]
    return "\n".join(lines)


def load_config(name_or_path: str | os.PathLike[str]) -> Config:
    """Read a configuration by its packaged name, such as `tiny`, or from a TOML file.

    Raises:
        ConfigError: no such file, not TOML, an unknown key or an impossible value.
    """
    text = os.fspath(name_or_path)
    path = data_file("configs", f"{text}.toml") if text in packaged_configs() else Path(text)
    if not path.is_file():
        raise ConfigError(f"no configuration {text!r}: give a TOML file or one of {', '.join(packaged_configs())}")
    try:
        config = Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML ({error})") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {problems(error)}") from error
    if config.data.energy_low > config.data.energy_high:
        raise ConfigError(f"{path}: data.energy_low is above data.energy_high; expected low to high in GeV")
    if abs(sum(config.data.fractions.values()) - 1) > 1e-6:
        raise ConfigError(f"{path}: the shares of [data] add up to {sum(config.data.fractions.values()):g}; expected 1")
    return config
