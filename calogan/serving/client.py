"""Ask a running endpoint for showers."""

import httpx
import numpy as np
from numpy.typing import ArrayLike

from calogan.errors import EventsError, RequestError, ServiceError
from calogan.events import Events
from calogan.serving.encodings import HDF5, decode

_REFUSED_REQUEST = frozenset({406, 413, 422})
_REFUSED_KEY = frozenset({401, 403})
_BUSY = frozenset({429, 503})


def fetch_showers(
    url: str,
    *,
    energies: ArrayLike,
    seed: int | None = None,
    precision: str | None = None,
    api_key: str,
    timeout: float = 300.0,
) -> Events:
    """Fetch one shower for each energy.

    Args:
        url: address of the endpoint, for example http://127.0.0.1:8000.
        energies: energy of each primary particle, shape (n,), GeV.
        seed: equal seeds give equal showers; None lets the endpoint draw one.
        precision: the precision of the model; None for the endpoint's default.
        api_key: key of the endpoint.
        timeout: seconds to wait for a connection, and for the next byte of the response.

    Raises:
        RequestError: the endpoint rejects the request, for example because an energy is out of range.
        ServiceError: the endpoint cannot be reached, refuses the key, is busy, or sends something else than showers.
    """
    values = np.asarray(energies, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise RequestError("energies must be a list of at least one finite number (GeV)")
    options = {"seed": seed, "precision": precision}
    body = {"energies": values.tolist()} | {key: value for key, value in options.items() if value is not None}
    response = _post(url, body, api_key=api_key, timeout=timeout)
    if not response.is_success:
        raise _refusal(url, response)
    media_type = response.headers.get("content-type", "")
    if media_type != HDF5.media_type:
        raise ServiceError(
            f"{url} answered {media_type or 'no content type'} instead of showers; is it the address of a calogan endpoint?"
        )
    try:
        events = decode(response.content, media_type)
    except EventsError as error:
        raise ServiceError(f"{url} sent something else than showers: {error}") from error
    if not np.array_equal(events.energy, values.astype(np.float32)):
        raise ServiceError(f"{url} answered {len(events)} showers of other energies than the {len(values)} requested")
    return events


def _post(url: str, body: dict[str, object], *, api_key: str, timeout: float) -> httpx.Response:
    headers = {b"Authorization": f"Bearer {api_key}".encode(), b"Accept": HDF5.media_type.encode()}
    try:
        return httpx.post(f"{url.rstrip('/')}/v1/showers", json=body, headers=headers, timeout=timeout)
    except httpx.TimeoutException as error:
        raise ServiceError(
            f"{url} did not answer within {timeout:g} s; ask for fewer showers or allow a longer timeout"
        ) from error
    except httpx.InvalidURL as error:
        raise ServiceError(f"{url!r} is not an address ({error}); expected one like http://127.0.0.1:8000") from error
    except httpx.HTTPError as error:
        raise ServiceError(
            f"{url} cannot be reached ({error}); check the address, and whether the endpoint is running"
        ) from error


def _refusal(url: str, response: httpx.Response) -> RequestError | ServiceError:
    status, message = response.status_code, _message(response)
    if status in _REFUSED_REQUEST and message is not None:
        return RequestError(message)
    if status in _REFUSED_KEY:
        return ServiceError(f"{url} refused the key: {message or response.reason_phrase}")
    if status in _BUSY:
        wait = response.headers.get("retry-after")
        return ServiceError(f"{url} is busy or not ready; try again {f'in {wait} s' if wait else 'later'}")
    return ServiceError(f"{url} answered {status} {response.reason_phrase}: {message or response.text[:200].strip()}")


def _message(response: httpx.Response) -> str | None:
    """Return the message of an error in the endpoint's format, or None if it has another format."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return None
