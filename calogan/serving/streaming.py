"""The response with showers: encoded as they are drawn, given up when the client leaves or does not read."""

import asyncio
import contextlib
import io
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import IO

import numpy as np
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from calogan.events import Hits
from calogan.geometry import CELLS
from calogan.serving.encodings import Encoding

_BLOCK = 1 << 20  # bytes of a file sent at a time
_IN_MEMORY = 8 << 20  # bytes of a response that is written whole; more go to a temporary file


class Left(Exception):  # noqa: N818 - not an error: clients may leave
    """The client left, or stopped reading."""


@dataclass(frozen=True)
class Report:
    """What is known of a response when it ends.

    Attributes:
        outcome: `sent`, `left` (the client left or stopped reading) or `failed`.
        seconds: time since its request was complete.
        first_s: time until its first bytes were ready; None if there were none.
    """

    outcome: str
    seconds: float
    first_s: float | None


class ShowerResponse(Response):
    """Showers as they are drawn."""

    def __init__(
        self,
        parts: AsyncGenerator[Hits, None],
        count: int,
        encoding: Encoding,
        provenance: Mapping[str, str],
        *,
        headers: Mapping[str, str],
        encoder: Executor,
        send_timeout_s: float,
        ended: Callable[[Report], None],
    ) -> None:
        """Prepare the response; nothing is drawn before it is called.

        Args:
            parts: the showers; closed at the end, whatever happens.
            count: number of showers.
            encoding: their encoding.
            provenance: header of the file that the body is.
            headers: headers of the response.
            encoder: where encodings that take long do not keep other requests waiting.
            send_timeout_s: seconds that a client may take to read what was sent to it before.
            ended: called once at the end.
        """
        super().__init__(media_type=encoding.media_type, headers=dict(headers))
        del self.headers["content-length"]
        if encoding.dtype:
            self.headers["content-length"] = str(len(encoding.head) + count * CELLS * np.dtype(encoding.dtype).itemsize)
        self._parts, self._count, self._encoding, self._provenance = parts, count, encoding, provenance
        self._encoder, self._send_timeout_s, self._ended = encoder, send_timeout_s, ended
        self._started = False
        self._stopped, self._pending = False, Future[Hits]()
        self._since = time.perf_counter()
        self._first_s: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the response; returns early if the client leaves."""
        outcome = "failed"
        work, watch = asyncio.ensure_future(self._send_all(send)), asyncio.ensure_future(_departure(receive))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            outcome = "left"
            if work.done():
                work.result()
                outcome = "sent"
        except Left:
            outcome = "left"
        except asyncio.CancelledError:  # how Ray says that the client left
            outcome = "left"
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
            await self._parts.aclose()
            self._ended(Report(outcome, time.perf_counter() - self._since, self._first_s))

    async def _send_all(self, send: Send) -> None:
        async with contextlib.aclosing(self._blocks()) as blocks:
            async for block, last in blocks:
                if self._first_s is None:
                    self._first_s = time.perf_counter() - self._since
                    if last:
                        self.headers["content-length"] = str(len(block))
                    await self._send(
                        send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                    )
                await self._send(send, {"type": "http.response.body", "body": block, "more_body": not last})

    async def _send(self, send: Send, message: Message) -> None:
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)
        except (TimeoutError, OSError) as error:
            raise Left from error

    async def _blocks(self) -> AsyncGenerator[tuple[bytes, bool], None]:
        """Encode the showers; yields blocks of bytes, and whether each is the last."""
        if self._encoding.writer:
            writer, encoded = self._encoding.writer(self._provenance), 0
            async for part in self._parts:
                encoded += len(part)
                last = encoded == self._count
                block = writer.add(part) + (writer.end() if last else b"")
                if block:
                    yield block, last
            return
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
            filling = asyncio.get_running_loop().run_in_executor(
                self._encoder, self._fill, asyncio.get_running_loop(), file
            )
            try:
                await asyncio.shield(filling)
            finally:
                self._stopped = True
                self._pending.cancel()
                await asyncio.wait({filling})  # the thread must not write into a closed file
            left = file.tell()
            self.headers["content-length"] = str(left)
            file.seek(0)
            while left:
                block = file.read(_BLOCK)
                left -= len(block)
                yield block, not left

    def _fill(self, loop: asyncio.AbstractEventLoop, file: IO[bytes]) -> None:
        """Write the whole body to a file, in a thread that pulls the showers from the event loop."""

        def parts() -> Iterator[Hits]:
            drawn = 0
            while drawn < self._count and not self._stopped:
                self._pending = asyncio.run_coroutine_threadsafe(_next(self._parts), loop)
                part = self._pending.result()
                drawn += len(part)
                yield part

        assert self._encoding.fill is not None  # noqa: S101 - for the type checker
        self._encoding.fill(parts(), self._provenance, file)
        file.seek(0, io.SEEK_END)


async def _next(parts: AsyncGenerator[Hits, None]) -> Hits:
    return await anext(parts)


async def _departure(receive: Receive) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
