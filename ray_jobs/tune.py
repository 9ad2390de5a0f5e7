"""Try quantization configurations in parallel and keep the best.

ray job submit --working-dir . -- python -m ray_jobs.tune --config tiny --model /shared/calogan/calogan-lean
"""

import tempfile
from pathlib import Path
from typing import Any

import click
import mlflow
import ray
from ray import tune

from calogan import bundle, generator, registry, steps
from calogan.config import Config, Quantization, load_config
from calogan.errors import GateError, QuantizationError
from calogan.provenance import header
from ray_jobs.cluster import join, run, say

SPACE = {
    "granularity": tune.grid_search(["per_channel", "per_tensor"]),
    "algorithm": tune.grid_search(["minmax", "kl"]),
    "calibration_showers": tune.grid_search([32, 64]),
}


def trial(settings: dict[str, Any], *, config: Config, model: Path, run_id: str) -> dict[str, float]:
    """Quantize with one configuration and score it on the validation split, which calibration does not see."""
    tried = config.model_copy(update={"quantization": Quantization(**settings)})
    reference = steps.read_split(config, "validation")
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        steps.quantize_model(tried, model, Path(scratch))
        candidate = generator.load(scratch, precision="int8").sample(reference.energy, seed=1)
    score = steps.score_showers(reference, candidate)
    registry.log_trial(run_id, settings, {"physics/score": score})
    return {"score": score}


def replace_int8(config: Config, model: Path) -> None:
    """Quantize as configured and judge the result on the test split; only one that fails no gate enters the model.

    Raises:
        GateError: a gate failed; the model is as it was.
    """
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        steps.quantize_model(config, model, Path(scratch))
        report = steps.validate_model(config, Path(scratch), "int8")
        failed = [name for name, result in report.gates.items() if result.verdict == "failed"]
        if failed:
            raise GateError(f"the best trial fails on the test split: {', '.join(failed)}; the model is left as it was")
        bundle.copy(Path(scratch), model)


@click.command()
@click.option("--config", "config_name", default="tiny", show_default=True, help="Packaged configuration or TOML file.")
@click.option(
    "--model", type=click.Path(path_type=Path), required=True, help="Folder of a trained model, shared by all."
)
def main(config_name: str, model: Path) -> None:
    """Tune the quantization of a model; its int8 network is replaced by the best one that passes the gates."""
    config = load_config(config_name)
    model = bundle.find(model).resolve()
    join()
    with registry.pipeline_run(f"tune {config_name}", {"model": str(model)}, header=header()) as run_id:
        function = tune.with_parameters(trial, config=config, model=model, run_id=run_id)
        run_config = tune.RunConfig(name="tune", storage_path=str(model / "tuning"), verbose=1)
        tuner = tune.Tuner(
            tune.with_resources(function, {"cpu": 1}),
            param_space=SPACE,
            tune_config=tune.TuneConfig(metric="score", mode="max"),
            run_config=run_config,
        )
        results = tuner.fit()
        if results.num_errors == len(results):
            raise QuantizationError(f"every trial failed; the first: {str(results.errors[0]).strip().splitlines()[-1]}")
        best = results.get_best_result()
        chosen = config.model_copy(update={"quantization": Quantization(**best.config)})
        mlflow.log_metric("physics/score", best.metrics["score"])
        say("tune", f"best of {len(results)} trials: {best.config}, physics score {best.metrics['score']:.3f}")
        ray.get(ray.remote(num_cpus=1, max_retries=3)(replace_int8).remote(chosen, model))
    say("done", str(model))


if __name__ == "__main__":
    run(main)
