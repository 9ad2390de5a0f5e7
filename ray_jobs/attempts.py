"""Common code of the search drivers: attempts on one core each, anywhere on the cluster, run by Ray Tune.

Each attempt writes a record. A search resumes from the records, not from Ray Tune's snapshots, which may be older than
the last attempt.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from calogan.errors import CaloganError

WORKER_DEATHS = 3  # of one attempt; an attempt that ends with its own error is not repeated


def run_all(
    attempt: Callable[..., dict[str, float]],
    folder: Path,
    *,
    parallel: int | None,
    error: type[CaloganError],
    arguments: dict[str, Any],
    space: dict[str, Any] | None = None,
    **settings: Any,
) -> list[dict[str, float]]:
    """Make attempts until there is nothing left to try.

    Args:
        attempt: (choices of Ray Tune, **arguments) -> numbers for Ray Tune.
        folder: folder of the records, shared by all nodes.
        parallel: largest number of attempts at a time; the number of cores if None.
        error: class of the error to raise.
        arguments: arguments of every attempt.
        space: search space of Ray Tune, if there is no search algorithm.
        settings: further fields of `tune.TuneConfig`.

    Returns:
        The numbers of all attempts.

    Raises:
        CaloganError: an attempt ended without a record; the class is `error`.
    """
    # Signals stop the job at once, and each attempt prints its own line instead of Tune's tables.
    os.environ |= {"TUNE_DISABLE_SIGNAL_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(attempt, **arguments), {"cpu": 1}),
        param_space=space,
        # A new worker for each attempt, because Tune would reuse one that died between two attempts.
        tune_config=tune.TuneConfig(max_concurrent_trials=parallel, reuse_actors=False, **settings),
        run_config=tune.RunConfig(
            storage_path=str(folder / "ray"),
            failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
            verbose=0,
        ),
    )
    results = tuner.fit()
    if results.errors:
        raise error(
            f"{len(results.errors)} of {len(results)} attempts ended without a result; submit the job again to repeat "
            f"only these. The first error: {str(results.errors[0]).strip().splitlines()[-1]}"
        )
    return [dict(result.metrics) for result in results]
