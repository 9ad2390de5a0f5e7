"""Submit Ray jobs to the cluster of a service, and read its logs."""

import contextlib
import shlex
import time
from collections.abc import Iterator, Sequence

import httpx

from calogan.cluster.connection import Service, forwarded, is_ready, job_head, pods, ray_token
from calogan.errors import RequestError, ServiceError

_DASHBOARD = 8265
_TIMEOUT_S = 60.0
_LOG_LINES = 200
_POLL_S = 2.0


@contextlib.contextmanager
def dashboard(service: Service, *, of_jobs: bool = False) -> Iterator[tuple[str, dict[str, str]]]:
    """Forward Ray's dashboard; yields its address and the headers with its token.

    Args:
        service: the service.
        of_jobs: whether that of the cluster for jobs is meant, if the installation has one.

    Raises:
        ServiceError: no head is ready.
    """
    own = job_head(service) if of_jobs else None
    heads = [pod for pod in ([own] if own else pods(service, "ray.io/node-type=head")) if is_ready(pod)]
    if not heads:
        raise ServiceError(f"{service.name} has no head that is ready; see calogan cluster status")
    headers = {"Authorization": f"Bearer {ray_token(service, heads[0])}"}
    with forwarded(service.namespace, heads[0].metadata.name, _DASHBOARD) as url:
        yield url, headers


def submit(service: Service, entrypoint: Sequence[str]) -> str:
    """Submit a job to the cluster for jobs, or else to that of the service; workers are started for it. Returns its id.

    Args:
        service: the service.
        entrypoint: the command and its arguments.
    """
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415 - takes seconds

    with dashboard(service, of_jobs=True) as (url, headers):
        return str(JobSubmissionClient(url, headers=headers).submit_job(entrypoint=shlex.join(entrypoint)))


def follow(service: Service, job: str) -> Iterator[str]:
    """Yield the output of a job until it ends.

    Raises:
        RequestError: there is no such job.
        ServiceError: the job failed, or Ray does not answer.
    """
    offset = 0
    with (
        dashboard(service, of_jobs=True) as (url, headers),
        httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S) as http,
    ):
        while True:
            state = http.get(f"/api/jobs/{job}")
            if state.status_code == httpx.codes.NOT_FOUND:
                raise RequestError(f"there is no job {job}; calogan cluster submit prints the id of a job")
            output = http.get(f"/api/jobs/{job}/logs").raise_for_status().json()["logs"]
            yield output[offset:]
            offset = len(output)
            status = state.raise_for_status().json()["status"]
            if status == "SUCCEEDED":
                return
            if status in {"FAILED", "STOPPED"}:
                raise ServiceError(f"job {job} {status.lower()}: {state.json().get('message', '')}")
            time.sleep(_POLL_S)


def replica_logs(service: Service, lines: int = _LOG_LINES) -> Iterator[tuple[str, str]]:
    """Yield the end of the log of each replica, with its id."""
    with dashboard(service) as (url, headers), httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S) as http:
        details = http.get("/api/serve/applications/").raise_for_status().json()
        for application in details["applications"].values():
            for deployment in application["deployments"].values():
                for replica in deployment["replicas"]:
                    place = {"node_id": replica["node_id"], "filename": replica["log_file_path"].lstrip("/")}
                    answer = http.get("/api/v0/logs/file", params=place | {"lines": lines})
                    yield replica["replica_id"], answer.text
