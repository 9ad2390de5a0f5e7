"""The processes that share a training: each processes its rows of every batch, and their gradients are summed.

All workers draw the same random numbers for the whole batch, so any number of them takes the same steps as a single
one, up to rounding. Exceptions are dropout and batch normalisation: the latter sees only the rows of its worker, and
every epoch starts with the moving statistics of the first worker.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from calogan.errors import TrainingError

Gradients: TypeAlias = list[tf.Tensor]


@dataclass(frozen=True)
class Workers:
    """One of the workers.

    Attributes:
        rank: its number, counted from 0; number 0, the chief, scores, writes and reports.
        size: number of workers.
        strategy: strategy that sums over the workers; None for a single worker.
    """

    rank: int = 0
    size: int = 1
    strategy: tf.distribute.Strategy | None = None

    @property
    def chief(self) -> bool:
        """Whether this worker scores, writes and reports."""
        return self.rank == 0

    def rows(self, n: int) -> slice:
        """This worker's rows of a batch of n; each worker has about n / size, and together they have all.

        Raises:
            TrainingError: there are fewer rows than workers.
        """
        if n < self.size:
            raise TrainingError(
                f"a batch of {n} cannot be shared by {self.size} workers; use fewer, or raise batch_size"
            )
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def step(
        self,
        differentiate: Callable[..., tuple[tf.Tensor, Gradients]],
        optimizer: keras.Optimizer,
        variables: list[keras.Variable],
        *,
        clip_norm: float | None = None,
        compiled: bool = False,
    ) -> Callable[..., tf.Tensor]:
        """Make a training step from a function that computes gradients.

        Args:
            differentiate: arrays of this worker's rows -> losses and gradients, both means over the rows.
            optimizer: updates the variables with the mean gradients over the rows of all workers.
            variables: the variables, in the order of the gradients.
            clip_norm: limit of the global norm of the gradients.
            compiled: whether XLA compiles the steps before and after the sum; a single worker compiles them as one.

        Returns:
            A function: arrays of this worker's rows, the first of shape (rows, ...) -> losses, means over all rows.
        """

        def update(gradients: Gradients) -> None:
            if clip_norm is not None:
                gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

        if self.strategy is not None and compiled:  # XLA compiles no collective operations
            differentiate, update = (tf.function(half, jit_compile=True) for half in (differentiate, update))

        def step(*arrays: tf.Tensor) -> tf.Tensor:
            losses, gradients = differentiate(*arrays)
            if self.strategy is not None:
                losses, *gradients = self._mean([losses, *gradients], rows=arrays[0].shape[0])
            update(gradients)
            return losses

        joined: Callable[..., tf.Tensor] = tf.function(step, jit_compile=compiled and self.strategy is None)
        return joined

    def mirror(self, parts: Iterable[keras.Model | keras.Optimizer]) -> None:
        """Copy the chief's variables to every worker, except the random states of dropout."""
        variables = [variable for part in parts for variable in part.variables]
        if self.strategy is not None:
            for variable, value in zip(variables, self._of_chief([v.value for v in variables]), strict=True):
                variable.assign(value)
        for state in random_states(variables):
            state.assign_add([self.rank, 0])

    def share(self, number: float) -> float:
        """Return the chief's number on all workers; the numbers of the others are ignored."""
        return float(self._of_chief([tf.constant(number, tf.float64)])[0])

    def agree(self, number: int, what: str) -> None:
        """Check that this worker and the chief have the same number of something.

        Raises:
            TrainingError: they do not.
        """
        if (expected := self.share(number)) != number:
            raise TrainingError(
                f"worker {self.rank} finds {number} {what}, the first worker {expected:.0f}; put it on storage that all "
                "nodes share"
            )

    def _of_chief(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        """The chief's tensors, sent as one tensor per type, because outside a graph every sum is a separate message."""
        shared = list(values)
        for dtype in dict.fromkeys(value.dtype for value in values):
            places = [place for place, value in enumerate(values) if value.dtype == dtype]
            flat = tf.concat([tf.reshape(values[place], [-1]) for place in places], 0)
            (total,) = self._sum([flat if self.chief else tf.zeros_like(flat)])
            parts = tf.split(total, [tf.size(values[place]) for place in places])
            for place, part in zip(places, parts, strict=True):
                shared[place] = tf.reshape(part, tf.shape(values[place]))
        return shared

    def _mean(self, values: list[tf.Tensor], *, rows: int) -> list[tf.Tensor]:
        *sums, total = self._sum([*(value * rows for value in values), tf.constant(float(rows))])
        return [value / total for value in sums]

    def _sum(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        if self.strategy is None:
            return values

        def add(values: list[tf.Tensor]) -> Any:
            # The strategy must know that the copies are on the device of this replica.
            values = [tf.identity(value) for value in values]
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

        return list(self.strategy.run(add, args=(values,)))


ALONE = Workers()


def random_states(variables: Iterable[keras.Variable]) -> list[tf.Variable]:
    """The random states among Keras variables: shape (2,), a seed and a counter."""
    return [variable.value for variable in variables if variable.path.endswith("seed_generator_state")]


def meet() -> Workers:
    """Connect to the workers listed in the environment variable TF_CONFIG; call this before any use of TensorFlow."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    resolver = strategy.cluster_resolver
    return Workers(resolver.task_id, resolver.cluster_spec().num_tasks(resolver.task_type), strategy)
