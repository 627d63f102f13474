"""The models of `shitu serve`: in the embedded Triton or in one elsewhere, and the file that tells the gateways of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from shitu_models.triton_config import TritonConfigOptions
from shitu_server.accelerators import check_accelerator
from shitu_server.errors import ConfigurationError
from shitu_server.processors import processor_count
from shitu_server.served import Served, between, check_successor, repository_of, served_by, write_served
from shitu_server.settings import Settings
from shitu_server.supervisor import EmbeddedTriton, TritonOptions
from shitu_server.triton import check_there
from shitu_server.triton_connection import TritonConnection
from shitu_server.triton_models import TritonModel, triton_models

_log = logging.getLogger(__name__)

_TAKEN_UP_S: Final = 1.0
"""A gateway takes milliseconds to read the file."""
_FAREWELL_S: Final = 5.0
"""After the gateways were told of new versions, how long former ones stay for requests that began with them."""


class ModelServing:
    """Belongs to the event loop of the main thread, as the embedded Triton does."""

    def __init__(self, settings: Settings, file: Path) -> None:
        self._settings = settings
        self._options = _config_options(settings)  # once: what runs keeps them
        self._triton: EmbeddedTriton | None = None
        self._served: Served | None = None
        self.file = file
        """What is served, for the gateways."""

    @property
    def triton_address(self) -> str:
        """`host:port` of Triton's gRPC."""
        return self._triton.grpc_address if self._triton is not None else self._settings.triton_address

    @property
    def names(self) -> str:
        """What is served, for people."""
        return str(self._served)

    async def start(self) -> None:
        """Find the models and, where Triton is not elsewhere, start it and load them; then write the file.

        Raises:
            ConfigurationError: a model is missing, damaged or not what it should be, or Triton cannot start.
        """
        if not self._settings.triton_address:  # first: the weights may take minutes to read
            await asyncio.to_thread(check_accelerator, self._settings.accelerator)
        served = await asyncio.to_thread(served_by, self._settings)
        if not self._settings.triton_address:
            served = replace(served, embedded=True)
            self._triton = EmbeddedTriton(self._triton_options(served))
            await self._triton.start()
        self._accept(served)

    async def reload(self, tell: Callable[[], None]) -> None:
        """Serve the versions that the repository has now. Where that fails all stays as it was, and the log says so.

        Args:
            tell: lets the gateways read the file, which has changed.
        """
        before = self._served
        assert before is not None
        try:
            served = replace(await asyncio.to_thread(served_by, self._settings), embedded=before.embedded)
            check_successor(before, served)
            await self._prepare(served)
        except ConfigurationError as error:
            _log.error("the models were not reloaded, %s are served on: %s", before, error.message)
            return
        if self._settings.workers > 1:
            write_served(self.file, between(before, served))
            tell()
            await asyncio.sleep(_TAKEN_UP_S)
        self._accept(served)
        tell()
        _log.warning("the models were reloaded: %s", served)
        if self._triton is not None:
            await asyncio.sleep(_FAREWELL_S)
            await self._let_go(self._triton, served)

    async def _let_go(self, triton: EmbeddedTriton, served: Served) -> None:
        try:
            await triton.change(self._models(served))
        except ConfigurationError as error:
            _log.warning("former versions of models stay loaded until the next reload: %s", error.message)

    async def _prepare(self, served: Served) -> None:
        """Have all that is to be served loaded beside all that is served."""
        if self._triton is None:
            await self._check_elsewhere(served)
            return
        assert self._served is not None
        former = {model.name: model for model in self._models(self._served)}
        await self._triton.change([model.and_versions_of(former[model.name]) for model in self._models(served)])

    async def _check_elsewhere(self, served: Served) -> None:
        connection = TritonConnection(self._settings.triton_address)
        try:
            await check_there(connection, served)
        finally:
            await connection.close()

    def _accept(self, served: Served) -> None:
        write_served(self.file, served)
        self._served = served

    def _models(self, served: Served) -> tuple[TritonModel, ...]:
        return triton_models(served, self._options)

    def _triton_options(self, served: Served) -> TritonOptions:
        settings = self._settings
        return TritonOptions(
            repository=repository_of(settings),
            models=self._models(served),
            cache_dir=settings.cache_dir,
            log_path=settings.data_dir / "logs" / "triton.log",
            start_timeout_s=settings.start_timeout_s,
        )

    async def stop(self) -> None:
        """Stop the embedded Triton, if there is one."""
        if self._triton is not None:
            await self._triton.stop()


def _config_options(settings: Settings) -> TritonConfigOptions:
    """Return how the embedded server runs every model; the precision is each model's own."""
    options = TritonConfigOptions.for_machine(processor_count(), settings.instances)
    delay_us = settings.max_queue_delay_us
    if delay_us is None:
        delay_us = settings.accelerator.queue_delay_us
    return replace(
        options,
        intra_op_threads=settings.threads or options.intra_op_threads,
        max_queue_delay_us=delay_us,
        accelerator=settings.accelerator,
    )
