"""Before an uninstallation, delete a RayService and wait for its Ray clusters to go: remove_service.py NAMESPACE NAME.

KubeRay clears Redis with a Job in the name of the head. Neither Redis nor that account may go before it.
"""

import sys
import time

from kubernetes import client, config

SECONDS = 240.0  # less than the five minutes that Helm waits
GROUP, VERSION = "ray.io", "v1"

namespace, name = sys.argv[1:]
config.load_incluster_config()
objects = client.CustomObjectsApi()
try:
    objects.delete_namespaced_custom_object(GROUP, VERSION, namespace, "rayservices", name)
except client.ApiException as error:
    if error.status != 404:
        raise
end = time.monotonic() + SECONDS
while time.monotonic() < end:
    labels = f"ray.io/originated-from-cr-name={name}"
    left = objects.list_namespaced_custom_object(GROUP, VERSION, namespace, "rayclusters", label_selector=labels)
    if not left["items"]:
        sys.exit()
    time.sleep(2)
print(f"the Ray clusters of {name} did not go within {SECONDS:g} s; does KubeRay's operator run?")
