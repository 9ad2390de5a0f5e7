"""What drivers that search share: attempts on one core each, wherever the cluster has cores, run by Ray Tune.

Each attempt leaves a record. The records are what a search goes on from, not Ray Tune's snapshots, which may be older than
the last attempt.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from calogan.errors import CaloganError

WORKER_DEATHS = 3  # of one attempt; an attempt that ends with an error of its own is not made again


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
        attempt: (what Ray Tune chose, **arguments) -> numbers for Ray Tune.
        folder: of the records, seen by all nodes.
        parallel: attempts at a time; as many as there are cores if None.
        error: what is raised.
        arguments: passed to every attempt.
        space: what Ray Tune chooses from, if no algorithm does.
        settings: further fields of `tune.TuneConfig`.

    Returns:
        the numbers of all attempts.

    Raises:
        CaloganError: of the kind asked for: an attempt ended without a record.
    """
    # A job that is stopped stops, and what Tune would print is said in a line for each attempt.
    os.environ |= {"TUNE_DISABLE_SIGNAL_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(attempt, **arguments), {"cpu": 1}),
        param_space=space,
        # A worker of its own for each: Tune would use one again that died between two attempts.
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
            f"{len(results.errors)} of {len(results)} attempts ended without a result; submit the job again to go on, the "
            f"others are kept. The first error: {str(results.errors[0]).strip().splitlines()[-1]}"
        )
    return [dict(result.metrics) for result in results]
