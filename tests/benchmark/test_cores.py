import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from calogan.benchmark.cores import one_core, own_core
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


@pytest.mark.parametrize("pinned", [one_core, own_core])
def test_afterwards_every_thread_has_its_own_cores_again(pinned: Callable[[], AbstractContextManager[object]]) -> None:
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("there is one core only")
    with ThreadPoolExecutor(1) as free, ThreadPoolExecutor(1) as bound, ThreadPoolExecutor(1) as new:
        free.submit(os.getpid).result()
        bound.submit(os.sched_setaffinity, 0, {min(before)}).result()
        with pinned():
            assert len(new.submit(os.sched_getaffinity, 0).result()) == 1
        cores = [pool.submit(os.sched_getaffinity, 0).result() for pool in (free, bound, new)]
    assert cores == [before, {min(before)}, before]
    assert os.sched_getaffinity(0) == before
