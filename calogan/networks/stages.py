"""The stages of training that a family can name: what each does for the generator and when its epochs are scored.

How a stage trains is in `training`; here is what a family says about it.
"""

from dataclasses import dataclass
from typing import Literal

from calogan.config import Training


@dataclass(frozen=True)
class StagePlan:
    """One stage of training.

    Attributes:
        name: of the stage; the field `<name>_epochs` of the configuration is how long it lasts.
        scored: after which of its epochs showers are generated and judged. "at intervals": after every `score_every`-th
            and after the last.
        trains_network: whether it trains the network that is quantized; without such a stage there is no generator.
        prepares: the stage it is a preparation for; if that one has no epochs, this one has none either.
    """

    name: str
    scored: Literal["never", "at intervals", "every epoch"]
    trains_network: bool
    prepares: str = ""

    @property
    def field(self) -> str:
        """Name of the field of `config.Training` with its number of epochs."""
        return f"{self.name}_epochs"

    def epochs(self, config: Training) -> int:
        """How many epochs a configuration gives it."""
        if self.prepares and not getattr(config, f"{self.prepares}_epochs"):
            return 0
        return int(getattr(config, self.field))

    def is_scored(self, epoch: int, *, of: int, every: int) -> bool:
        """Whether an epoch is scored.

        Args:
            epoch: of the stage, counted from 0.
            of: epochs of the stage.
            every: `score_every` of the configuration; 0 for the last epoch only.
        """
        if self.scored == "at intervals":
            return epoch == of - 1 or (every > 0 and (epoch + 1) % every == 0)
        return self.scored == "every epoch"


PRETRAINING = StagePlan("pretraining", scored="never", trains_network=False)
FLOW = StagePlan("flow", scored="never", trains_network=False)
SHAPE = StagePlan("shape", scored="at intervals", trains_network=True)
PRIOR = StagePlan("prior", scored="at intervals", trains_network=False)
DISTANCE = StagePlan("distance", scored="at intervals", trains_network=True)
WARMUP = StagePlan("warmup", scored="never", trains_network=False, prepares="adversarial")
ADVERSARIAL = StagePlan("adversarial", scored="every epoch", trains_network=True)
