import os
import subprocess
import sys
import threading

import pytest

from calogan.benchmark.cores import own_core
from calogan.errors import ServiceError

HOLD = (
    "from calogan.benchmark.cores import own_core\nwith own_core() as core:\n    print(core, flush=True)\n    input()"
)


def test_a_thread_stays_on_its_core_and_is_free_again_afterwards() -> None:
    before = os.sched_getaffinity(0)
    with own_core() as core:
        assert os.sched_getaffinity(0) == {core} <= before
        started: list[set[int]] = []
        thread = threading.Thread(target=lambda: started.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        assert started == [{core}]
    assert os.sched_getaffinity(0) == before


def test_a_core_is_held_by_one_process_until_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_core() as core:
        pass
    # From here on there is this one core only.
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout
        assert holder.stdout.readline() == f"{core}\n"
        with pytest.raises(ServiceError, match=r"all 1 cores .* taken by other measurements"), own_core(patience=0.2):
            pass
        holder.kill()
        holder.communicate()
        with own_core(patience=5) as again:
            assert again == core
    finally:
        os.sched_setaffinity(0, before)
