import pytest
from pydantic import BaseModel, Field, ValidationError

from calogan.errors import problems


class Plate(BaseModel):
    thickness: float = Field(gt=0)


class Stack(BaseModel):
    name: str
    plates: tuple[Plate, ...]


def test_every_invalid_value_is_reported_with_its_location() -> None:
    with pytest.raises(ValidationError) as raised:
        Stack.model_validate({"name": 3, "plates": [{"thickness": 1}, {"thickness": -1}]})
    assert problems(raised.value) == (
        "name: Input should be a valid string; plates.1.thickness: Input should be greater than 0"
    )
