"""Compare two files of showers as a job.

ray job submit --working-dir . -- python -m ray_jobs.validate --reference g4.h5 --candidate showers.h5 --json v.json
"""

import sys
from pathlib import Path

import click
import ray

from calogan import validation
from calogan.events import read_events
from ray_jobs.cluster import join, run, say


@ray.remote(max_retries=3)  # type: ignore[untyped-decorator]
def validate(reference: Path, candidate: Path, gates: str) -> validation.ValidationReport:
    """Read both files where the worker is and compare them."""
    samples = read_events(reference), read_events(candidate)
    return validation.validate(*samples, gates=validation.load_gates(gates), inputs=(reference, candidate))


@click.command()
@click.option("--reference", type=click.Path(path_type=Path), required=True, help="Geant4 showers, on shared storage.")
@click.option("--candidate", type=click.Path(path_type=Path), required=True, help="Showers of any generator.")
@click.option("--gates", default="gates", show_default=True, help="Limits: of the package, or a TOML file.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), required=True, help="Report to write.")
def main(reference: Path, candidate: Path, gates: str, json_file: Path) -> None:
    """Validate on a Ray cluster; exit code 3 when a gate failed."""
    join()
    report = ray.get(validate.options(num_cpus=1).remote(reference.resolve(), candidate.resolve(), gates))
    validation.write_report(json_file, report)
    failed = [name for name, result in report.gates.items() if result.verdict == "failed"]
    say("done", f"physics score {validation.physics_score(report):.3f}; failed gates: {', '.join(failed) or 'none'}")
    sys.exit(3 if failed else 0)


if __name__ == "__main__":
    run(main)
