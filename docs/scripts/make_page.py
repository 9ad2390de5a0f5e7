"""Regenerate a page of the documentation: `make docs PAGE=results`.

Its numbers are measured on this machine, which takes minutes for most pages and hours for `families`.
"""

import runpy
import sys
from pathlib import Path

SCRIPTS = {
    "results": "make_results.py",
    "comparators": "compare_precisions.py",  # needs the extra `peers`
    "families": "compare_families.py",  # needs SHOWERS=...
    "scaling": "measure_scaling.py",
    "files": "measure_files.py",
    "training-log": "log_training.py",  # SHOWERS=... if not the packaged ones
    "picture": "draw_picture.py",
    "rooms": "list_rooms.py",
}


def main() -> None:
    """Run the script of the page named by the first argument, with the other arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in SCRIPTS:
        sys.exit(f"which page? make docs PAGE=... with one of {', '.join(SCRIPTS)}")
    name, *arguments = sys.argv[1:]
    script = Path(__file__).parent / SCRIPTS[name]
    sys.argv = [f"make docs PAGE={name}", *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
