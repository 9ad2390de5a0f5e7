"""The twin of `Client` for coroutines."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from calogan.events import Events, Hits
from calogan.serving.client import Client


class AsyncClient:
    """The twin of `Client` for coroutines: the same arguments, iterators to use with `async for`.

    It receives in a thread, so that decoding does not hold up the event loop.
    """

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        """Prepare a client, see `Client`."""
        self._client = Client(url, key, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await asyncio.to_thread(self._client.close)

    async def describe(self, precision: str | None = None) -> dict[str, str]:
        """Return the provenance of showers, see `Client.describe`."""
        return await asyncio.to_thread(self._client.describe, precision)

    async def hits(self, **arguments: Any) -> AsyncIterator[Hits]:
        """Ask for showers and yield their hits, see `Client.hits`."""
        parts = self._client.hits(**arguments)
        try:
            while (hits := await asyncio.to_thread(next, parts, None)) is not None:
                yield hits
        finally:
            # A part may still be arriving in the thread when this coroutine is cancelled.
            with contextlib.suppress(ValueError):
                parts.close()  # type: ignore[attr-defined]

    async def showers(self, **arguments: Any) -> AsyncIterator[Events]:
        """Ask for showers with all their cells, see `Client.hits`."""
        async for hits in self.hits(**arguments):
            yield hits.to_dense()

    async def sample(self, **arguments: Any) -> Events:
        """Ask for showers and return them all at once, see `Client.hits`."""
        return await asyncio.to_thread(lambda: self._client.sample(**arguments))

    async def produce(self, folder: str | os.PathLike[str], **arguments: Any) -> Path:
        """Let the endpoint make a production and fetch it into a folder, see `Client.production`; returns its manifest."""
        return await asyncio.to_thread(lambda: self._client.production(**arguments).download(folder))
