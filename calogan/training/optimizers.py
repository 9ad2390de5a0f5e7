"""Adam with a learning rate for each layer and averages of the weights, its schedule, and the unit that suits it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
from keras import layers

from calogan.networks.base import Tensor

_FAN_IN = 200.0  # inputs of an output up to which a kernel has the full rate
_AVERAGED_STEPS = 100
_RISE = 100  # steps in which a rate rises
_LAST_RATE = 0.02


def rise_and_fall(rate: float, *, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that rises over the first steps and then falls with a cosine, nearly to 0."""
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps), alpha=_LAST_RATE, warmup_target=rate, warmup_steps=min(_RISE, steps // 2)
    )


def scale_output(variables: list[keras.Variable], factor: float) -> None:
    """Change the unit of a network's output, between GeV and the mean cell, in its last kernel.

    Adam changes a weight by the learning rate, however small the weight is, and the weights of a last layer that
    outputs GeV are all small.
    """
    kernel = next(variable for variable in reversed(variables) if variable.path.endswith("kernel"))
    kernel.assign(kernel * factor)


class FanInAdam(keras.optimizers.Adam):  # type: ignore[misc]  # Keras has no types
    """Adam whose rate for a kernel is inversely proportional to its fan-in.

    Adam changes every weight by about the learning rate, and all changes of a step agree with each other. What they
    change together grows with the number of inputs that an output sums up: at one rate for all, a convolution of
    8 x 8 x 64 inputs is destroyed where a dense layer hardly learns. The rule is that of Yang and Hu, "Tensor Programs
    IV" (2021, arXiv 2011.14522), table 1.

    The weights are averaged over about the last 100 steps; `finalize_variable_values` replaces them by the averages.
    """

    def __init__(
        self,
        learning_rate: Any,
        network: keras.Model,
        variables: list[keras.Variable],
        *,
        bias: float,
        factors: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Make an optimizer.

        Args:
            learning_rate: a number or a schedule.
            network: the network with the layers.
            variables: the variables to change.
            bias: what the rate of biases, and of the shifts of normalisations, is multiplied by. Activations are larger than
                weights, and biases that matter to them must be so, too.
            factors: what the rates of the kernels of some layers are multiplied by, by name.
        """
        super().__init__(learning_rate, beta_2=0.99, use_ema=True, ema_momentum=1 - 1 / _AVERAGED_STEPS)
        rates = {
            path: rate
            for layer in network.layers
            for path, rate in _rates(layer, bias, factors.get(layer.name, 1.0)).items()
        }
        self._rates = [rates.get(variable.path, 1.0) for variable in variables]
        self.build(variables)

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: Tensor) -> None:
        """Update one variable at its own rate."""
        rate = self._rates[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * rate)


def _rates(layer: keras.Layer, bias: float, factor: float) -> dict[str, float]:
    """Rate of the variables of a layer relative to the learning rate, by path; `factor` is of its kernel."""
    if isinstance(layer, layers.BatchNormalization):
        return {layer.beta.path: bias} if layer.center else {}
    if not isinstance(layer, layers.Dense | layers.Conv2D | layers.Conv2DTranspose | layers.Conv3D):
        return {}
    rates = {layer.kernel.path: factor * min(1.0, _FAN_IN / _fan_in(layer))}
    return rates | ({layer.bias.path: bias} if layer.use_bias else {})


def _fan_in(layer: keras.Layer) -> float:
    """Number of inputs that an output sums up."""
    *size, inputs, outputs = layer.kernel.shape
    if isinstance(layer, layers.Conv2DTranspose):  # has outputs before inputs, and a position in `strides` counts
        inputs = outputs / (layer.strides[0] * layer.strides[1])
    for side in size:
        inputs *= side
    return float(inputs)
