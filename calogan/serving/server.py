"""The API as one process of its own, by uvicorn: `calogan serve`."""

import asyncio
import json
import logging
import socket
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import grpc
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from calogan.serving.grpc_service import InferenceService, start_server

HEADER_TIMEOUT_S = 10.0
GRACE_S = 30
# The drawing thread hands the interpreter over for each call of a library, and would wait 5 ms to get it back.
SWITCH_S = 0.0005


class _Protocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, but a connection must send the headers of its first request in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().on_headers_complete()

    def _give_up(self) -> None:
        self.transport.close()


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the facts of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        } | getattr(record, "facts", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to(stream: TextIO) -> None:
    """Write the log of requests and of the server as JSON lines."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    for name in ("calogan", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _Server(uvicorn.Server):
    """A server of HTTP, and of gRPC beside it in the same event loop."""

    grpc_port = 0
    _grpc: grpc.aio.Server | None = None

    def __init__(self, config: uvicorn.Config, service: InferenceService | None, address: str) -> None:
        super().__init__(config)
        self._service, self._address = service, address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._service:
            self._grpc, self.grpc_port = await start_server(self._service, self._address)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._grpc:
            await self._grpc.stop(GRACE_S)
        await super().shutdown(sockets)


def run(api: FastAPI, listener: socket.socket, *, grpc_address: str = "") -> None:
    """Serve until a signal ends it; requests that are running may end within 30 s.

    Args:
        api: the API.
        listener: where to serve HTTP.
        grpc_address: HOST:PORT where to serve gRPC; empty for not at all.

    Raises:
        ConfigError: gRPC is not installed.
        RequestError: gRPC cannot listen there.
    """
    sys.setswitchinterval(SWITCH_S)
    service = InferenceService(api.state.endpoint, api.state.check_ready) if grpc_address else None
    config = uvicorn.Config(
        api, http=_Protocol, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_S, lifespan="off"
    )
    _Server(config, service, grpc_address).run(sockets=[listener])
