import pytest

from calogan.config import Training
from calogan.networks.base import GeneratorNetwork
from calogan.networks.families import FAMILIES
from calogan.networks.stages import ADVERSARIAL, DISTANCE, FLOW, SHAPE, SHAPE_FLOW, WARMUP, StagePlan


@pytest.mark.parametrize(
    ("plan", "every", "scored"),
    [
        (FLOW, 1, []),
        (WARMUP, 1, []),
        (SHAPE, 2, [1, 3, 4]),
        (SHAPE_FLOW, 0, [4]),
        (DISTANCE, 5, [4]),
        (ADVERSARIAL, 1, [0, 1, 2, 3, 4]),
    ],
    ids=lambda value: value.name if isinstance(value, StagePlan) else None,
)
def test_which_epochs_are_scored(plan: StagePlan, every: int, scored: list[int]) -> None:
    assert [epoch for epoch in range(5) if plan.is_scored(epoch, of=5, every=every)] == scored


def test_a_stage_lasts_as_long_as_its_field_says() -> None:
    assert SHAPE.epochs(Training(shape_epochs=7)) == 7
    assert WARMUP.epochs(Training(warmup_epochs=3, adversarial_epochs=1)) == 3


def test_there_is_no_warm_up_for_an_adversary_that_never_comes() -> None:
    assert WARMUP.epochs(Training(warmup_epochs=3, adversarial_epochs=0)) == 0


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_every_stage_of_a_family_has_its_number_of_epochs_in_the_configuration(family: type[GeneratorNetwork]) -> None:
    plans = family.stages
    assert {plan.field for plan in plans} <= set(Training.model_fields)
    assert all(plan.scored for plan in plans if plan.trains_network)
