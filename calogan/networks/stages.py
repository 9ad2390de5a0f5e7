"""The stages of training that a family can use: their names, order and scoring.

`training` implements the stages; this module contains what a family declares about them.
"""

from dataclasses import dataclass

from calogan.config import Training


@dataclass(frozen=True)
class StagePlan:
    """One stage of training.

    Attributes:
        name: name of the stage; the field `<name>_epochs` of the configuration sets its length.
        scored: whether showers are generated and scored, after every `score_every`-th epoch and after the last.
        trains_network: whether it trains the quantized network; at least one stage must.
        prepares: name of the stage that it prepares; if that stage has no epochs, this one has none either.
    """

    name: str
    scored: bool
    trains_network: bool
    prepares: str = ""

    @property
    def field(self) -> str:
        """Name of the field of `config.Training` with its number of epochs."""
        return f"{self.name}_epochs"

    def epochs(self, config: Training) -> int:
        """Number of its epochs in a configuration."""
        if self.prepares and not getattr(config, f"{self.prepares}_epochs"):
            return 0
        return int(getattr(config, self.field))

    def is_scored(self, epoch: int, *, of: int, every: int) -> bool:
        """Whether an epoch is scored.

        Args:
            epoch: epoch of the stage, counted from 0.
            of: number of epochs of the stage.
            every: `score_every` of the configuration; 0 for the last epoch only.
        """
        return self.scored and (epoch == of - 1 or (every > 0 and (epoch + 1) % every == 0))


PRETRAINING = StagePlan("pretraining", scored=False, trains_network=False)
FLOW = StagePlan("flow", scored=False, trains_network=False)
SHAPE = StagePlan("shape", scored=True, trains_network=True)
SHAPE_FLOW = StagePlan("shape_flow", scored=True, trains_network=False)
DISTANCE = StagePlan("distance", scored=True, trains_network=True)
REFINEMENT = StagePlan("refinement", scored=True, trains_network=True)
WARMUP = StagePlan("warmup", scored=False, trains_network=False, prepares="adversarial")
ADVERSARIAL = StagePlan("adversarial", scored=True, trains_network=True)
