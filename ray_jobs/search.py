"""Search for a good and fast generator: train many in parallel; an interrupted job resumes.

ray job submit --working-dir . -- python -m ray_jobs.search --config tiny --out /shared/calogan/search
"""

from pathlib import Path
from typing import Any

import click
import ray
from ray.tune.search import Searcher

from calogan.atomic_files import write_json, write_text
from calogan.cli.program import run
from calogan.config import Config, as_toml, load_config
from calogan.errors import TrainingError
from calogan.provenance import header
from calogan.reporting import pictures
from calogan.search import generator_proposals, generator_trials
from calogan.search.generator_proposals import FIDELITY, Attempt, Candidate, Choices
from calogan.search.records import Failure
from calogan.tracking.runs import log_file, log_trial, pipeline_run
from calogan.validation.report import ValidationReport
from ray_jobs.attempts import run_all
from ray_jobs.driver import flat, join, say


class Proposals(Searcher):  # type: ignore[misc]  # Ray has no types
    """Gives Ray Tune the unfinished candidates of an earlier job, then the proposals of `generator_proposals`."""

    def __init__(self, config: Config, folder: Path) -> None:
        super().__init__(metric="auc", mode="min")
        self._config, self._folder = config, folder
        self._unfinished = generator_trials.unfinished(folder)
        self._running: dict[str, Choices] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the choices of the next candidate."""
        history = generator_trials.records(self._folder).read_all()
        proposed = (
            self._unfinished.pop()
            if self._unfinished
            else generator_proposals.propose(self._config, history, list(self._running.values()))
        )
        if proposed is None:
            return str(Searcher.FINISHED)
        self._running[trial_id] = proposed
        return {"choices": proposed}

    def on_trial_complete(self, trial_id: str, result: object = None, error: bool = False) -> None:  # noqa: ARG002
        """Remove a finished candidate from those in progress."""
        self._running.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing, because a search resumes from its records."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, for the same reason."""


def trial(space: dict[str, Choices], *, config: Config, folder: Path, run_id: str) -> dict[str, float]:
    """Try one candidate unless it has a record: a worker may die between writing the record and reporting it."""
    choices, records = space["choices"], generator_trials.records(folder)
    result = records.read(generator_trials.label(choices))
    if result is None:
        say("candidate", generator_proposals.describe(choices))
        result = generator_trials.attempt(config, choices, folder)
        failure = result.reason if isinstance(result, Failure) else ""
        log_trial(run_id, generator_proposals.describe(choices), dict(choices), _metrics(result), failure=failure)
        records.write(generator_trials.label(choices), result)
    say("candidate", generator_proposals.summary(result))
    return {"auc": result.auc if isinstance(result, Candidate) else 1.0}


def _metrics(result: Attempt) -> dict[str, float]:
    if isinstance(result, Failure):
        return {}
    return {"physics/auc_high_level_error": result.auc_error, **result.metrics}


def fit(config: Config, folder: Path, parallel: int | None, run_id: str) -> None:
    """Train candidates on all cores of the cluster; each gets a record.

    Raises:
        TrainingError: a candidate ended without a record.
    """
    count = len(generator_trials.records(folder).read_all())
    say("search", f"{count} candidates done, {max(0, config.search.trials - count)} to do")
    if count >= config.search.trials:
        return
    run_all(
        trial,
        folder,
        parallel=parallel or int(ray.cluster_resources().get("CPU", 1)),
        error=TrainingError,
        arguments={"config": config, "folder": folder, "run_id": run_id},
        search_alg=Proposals(config, folder),
        num_samples=config.search.trials - count,
    )


@ray.remote(num_cpus=1, max_retries=3)  # type: ignore[untyped-decorator]
def judge(config: Config, candidate: Candidate, folder: Path) -> ValidationReport:
    """Validate a candidate on a worker."""
    return generator_trials.judge(config, candidate, folder)


@click.command()
@click.option("--config", "config_name", default="tiny", show_default=True, help="Packaged configuration or TOML file.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the search, shared by all nodes."
)
@click.option("--trials", type=click.IntRange(1), help="Number of candidates; default from [search].")
@click.option("--parallel", type=click.IntRange(1), help="Candidates at a time; by default one for each core.")
def main(config_name: str, out: Path, trials: int | None, parallel: int | None) -> None:
    """Train candidates and show the Pareto front of physics and speed."""
    config = load_config(config_name)
    if trials:
        config = config.model_copy(update={"search": config.search.model_copy(update={"trials": trials})})
    generator_proposals.check(config)
    folder = generator_trials.search_folder(config, out.resolve())
    join()
    with pipeline_run(f"search {config_name}", flat(config), header=header(), key=folder.name) as run_id:
        fit(config, folder, parallel, run_id)
        candidates = [result for result in generator_trials.records(folder).read_all() if isinstance(result, Candidate)]
        if not candidates:
            raise TrainingError(f"none of {config.search.trials} candidates could be trained; see {folder}")
        best = generator_proposals.front(candidates)
        reports = ray.get([judge.remote(config, candidate, folder) for candidate in best])
        picture = folder / "pareto.png"
        points = {
            generator_proposals.describe(each.choices): (each.cost, each.auc, each.auc_error) for each in candidates
        }
        pictures.save(pictures.pareto(points, [generator_proposals.describe(each.choices) for each in best]), picture)
        log_file(run_id, picture)
        for number, candidate in enumerate(best, start=1):
            variant = generator_proposals.configure(config, candidate.choices)
            path = folder / f"front_{number}.toml"
            write_text(
                path,
                as_toml(data=variant.data, network=variant.network, training=variant.training),
            )
            log_file(run_id, path)
    for candidate, report in zip(best, reports, strict=True):
        auc = report.metrics[FIDELITY]
        say(
            "front",
            f"{generator_proposals.summary(candidate)}; on the test split AUC {auc.value:.3f} +- {auc.error:.3f}",
        )
    write_json(folder / "front.json", _front(folder, best, reports))
    say("done", f"{folder}: pareto.png, front.json, and front_1.toml and so on to train with")


def _front(folder: Path, best: list[Candidate], reports: list[ValidationReport]) -> dict[str, Any]:
    return {
        "front": [
            {
                "choices": dict(candidate.choices),
                "model": str(generator_trials.model_folder(folder, candidate.choices)),
                "validation": {"auc": candidate.auc, "error": candidate.auc_error},
                "test": {"auc": report.metrics[FIDELITY].value, "error": report.metrics[FIDELITY].error},
                "ms_per_shower": candidate.cost,
            }
            for candidate, report in zip(best, reports, strict=True)
        ]
    }


if __name__ == "__main__":
    run(main)
