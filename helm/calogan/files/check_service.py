"""Check a running service: check_service.py URL [MODEL PRECISION]; the key is in CALOGAN_API_KEY."""

import os
import sys

import httpx
import numpy as np

from calogan import quiet
from calogan.serving.client import Client

url, *served = sys.argv[1:]
key, energies = os.environ["CALOGAN_API_KEY"], [10.0, 50.0, 200.0, 450.0] * 4

refused = httpx.get(f"{url}/v1/models", timeout=60)
if refused.status_code != 401:
    sys.exit(f"without a key, {url} answered {refused.status_code} instead of 401")
models = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=60).raise_for_status()
print("models:", models.json())

client = Client(url, key)
first, second = (client.sample(energy=energies, seed=1).showers for _ in range(2))
if first.shape != (len(energies), 25, 25, 25) or not first.any(axis=(1, 2, 3)).all():
    sys.exit(f"{len(energies)} energies gave showers of shape {first.shape}, or empty ones")
if not np.array_equal(first, second):
    sys.exit("two requests with the same seed gave different showers")
print(f"{len(first)} showers, equal for equal seeds")

health = httpx.get(f"{os.environ['MLFLOW_TRACKING_URI']}/health", timeout=60).raise_for_status()
print("MLflow:", health.text)

if served:
    quiet.load_tensorflow()
    from calogan.generation.generator import load
    from calogan.tracking.location import locate

    model, precision = served
    own = load(locate(model, precision), precision=precision).sample(np.array(energies, dtype=np.float32), seed=1)
    asked = client.sample(energy=energies, seed=1, precision=precision)
    if not np.array_equal(own.showers, asked.showers):
        sys.exit(f"{precision} showers of {model} made here differ from those of the service")
    print(f"{precision} showers of {model} made here are equal to them, bit for bit")
