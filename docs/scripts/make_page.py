"""Regenerate a page of the documentation: `make docs PAGE=results`, or all pages: `make docs PAGE=all SHOWERS=...`.

Their numbers are measured on this machine, which takes minutes for most pages and hours for `results` and `training-log`.
"""

import runpy
import subprocess
import sys
from pathlib import Path

SCRIPTS = {
    "results": "make_results.py",  # SHOWERS=... for more Geant4 showers than the packaged ones
    "scaling": "measure_scaling.py",
    "files": "measure_files.py",
    "serving-speed": "measure_serving.py",  # needs wrk
    "production-speed": "measure_production.py",
    "sizing": "measure_sizing.py",
    "training-log": "log_training.py",  # SHOWERS=... if not the packaged ones
    "picture": "draw_picture.py",
    "rooms": "list_rooms.py",
}
ALL = "all"
TAKES_SHOWERS = ("results",)  # of these, all pages together: a log of trainings is made once for each search


def main() -> None:
    """Run the script of the page named by the first argument, with the other arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in (ALL, *SCRIPTS):
        sys.exit(f"which page? make docs PAGE=... with one of {', '.join((*SCRIPTS, ALL))}")
    name, *arguments = sys.argv[1:]
    if name == ALL:
        regenerate_all(arguments)
        return
    script = Path(__file__).parent / SCRIPTS[name]
    sys.argv = [f"make docs PAGE={name}", *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


def regenerate_all(arguments: list[str]) -> None:
    """Run all scripts, each in its own process; exits with their names if some fail.

    Args:
        arguments: options of the scripts that read showers.
    """
    failed = []
    for name in SCRIPTS:
        print(f"page {name}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, name, *(arguments if name in TAKES_SHOWERS else [])]
        if subprocess.run(command, check=False).returncode:  # noqa: S603 - scripts of this folder
            failed.append(name)
    if failed:
        sys.exit(f"not regenerated: {', '.join(failed)}; what went wrong is above")


if __name__ == "__main__":
    main()
