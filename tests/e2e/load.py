"""Runs in a pod: ask for int8 showers from several threads for some seconds, and print what was answered as JSON.

load.py URL SECONDS THREADS; the key is in CALOGAN_API_KEY. Every request has a seed, so that it can be repeated without
changing the answer: a client that does so is counted beside one that does not.
"""

import itertools
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request

url, seconds, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
ATTEMPTS, PAUSE_S, TIMEOUT_S = 8, 1.0, 60.0
begun = time.monotonic()
lock = threading.Lock()
answered: list[float] = []
reasons: dict[str, int] = {}
counts = {"requests": 0, "failed at first": 0, "failed after retries": 0}
slowest = 0.0


def ask(seed: int) -> str:
    """Ask once; returns what was wrong, or an empty text."""
    body = json.dumps({"energy": 100, "n": 10, "seed": seed, "precision": "int8"}).encode()
    headers = {"Authorization": f"Bearer {os.environ['CALOGAN_API_KEY']}", "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=TIMEOUT_S) as answer:  # noqa: S310
            return "" if len(answer.read()) > 1000 else "short answer"
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except OSError as error:
        return type(getattr(error, "reason", error)).__name__


def work(number: int) -> None:
    """Ask until the time is over."""
    global slowest  # noqa: PLW0603 - a script
    seed = number * 1_000_000
    while time.monotonic() - begun < seconds:
        seed += 1
        start = time.monotonic()
        wrong = first = ask(seed)
        for _ in range(ATTEMPTS):
            if not wrong:
                break
            time.sleep(PAUSE_S)
            wrong = ask(seed)
        with lock:
            now = time.monotonic()
            counts["requests"] += 1
            counts["failed at first"] += bool(first)
            counts["failed after retries"] += bool(wrong)
            slowest = max(slowest, now - start)
            if first:
                reasons[first] = reasons.get(first, 0) + 1
            if not wrong:
                answered.append(now)
        time.sleep(0.02)


workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
times = sorted([begun, *answered])
gap = max((second - first for first, second in itertools.pairwise(times)), default=seconds)
print(json.dumps(counts | {"longest gap": round(gap, 1), "slowest": round(slowest, 1), "reasons": reasons}))
