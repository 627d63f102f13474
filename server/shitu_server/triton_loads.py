"""Loads models into the embedded Triton: those versions alone whose files are still what they were."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from shitu_server.errors import ConfigurationError
from shitu_server.served import WeightsChangedError, check_weights, unchanged_versions
from shitu_server.triton_control import TritonControlError, TritonSilentError, TritonTimeoutError
from shitu_server.triton_models import TritonModel
from shitu_server.triton_process import ProcessOptions, TritonProcess

_UNLOAD_TIMEOUT_S: Final = 5.0


class ModelLoader:
    """Belongs to one process, however often that is started."""

    def __init__(self, process: TritonProcess, options: ProcessOptions) -> None:
        self._process = process
        self._options = options

    async def load(self, model: TritonModel) -> None:
        """Load all versions of a model and wait for their warm-up; what is loaded of it besides is let go.

        Raises:
            ConfigurationError: Triton cannot, or not in time; it may go on with it.
            WeightsChangedError: a file is not the one that it was; nothing of the model is loaded then.
        """
        options = self._options
        try:
            await asyncio.to_thread(self._process.control.load, model.name, options.start_timeout_s, model.load_config)
            # Now that Triton has read them: what lies there was not exchanged in the meantime.
            await asyncio.to_thread(check_weights, options.repository, model.name, model.digests)
        except TritonControlError as error:
            raise self._load_error(model.name, error) from error
        except WeightsChangedError:
            await self._unload_changed(model.name)
            raise

    async def load_unchanged(self, model: TritonModel) -> None:
        """Load those versions of a model whose files are what they were.

        Raises:
            ConfigurationError: as `load`.
            WeightsChangedError: there are others; they stay away, and these are loaded.
        """
        unchanged = await self._unchanged(model)
        if unchanged:
            await self.load(replace(model, digests=unchanged))
        await asyncio.to_thread(check_weights, self._options.repository, model.name, model.digests)

    async def bring_back(self, model: TritonModel, whole: Collection[int]) -> None:
        """Load a model again some versions of which lost a process; those that are whole answer on.

        Triton never starts a process again, and reports its model ready: a mere load would do nothing.

        Args:
            model: as it should be.
            whole: its versions that have all their processes.

        Raises:
            ConfigurationError, WeightsChangedError: as `load_unchanged`.
            TritonControlError: Triton does not unload it.
        """
        kept = {version: digest for version, digest in (await self._unchanged(model)).items() if version in whole}
        if kept:
            await self.load(replace(model, digests=kept))
        else:
            await asyncio.to_thread(self._process.control.unload, model.name, _UNLOAD_TIMEOUT_S)
        await self.load_unchanged(model)

    async def _unchanged(self, model: TritonModel) -> Mapping[int, str]:
        return await asyncio.to_thread(unchanged_versions, self._options.repository, model.name, model.digests)

    async def _unload_changed(self, name: str) -> None:
        try:
            await asyncio.to_thread(self._process.control.unload, name, _UNLOAD_TIMEOUT_S)
        except TritonControlError:
            await self._process.kill()  # rather nothing than vectors of other weights

    def _load_error(self, name: str, error: TritonControlError) -> ConfigurationError:
        options = self._options
        log = f"(log: {options.log_path})"
        if isinstance(error, TritonTimeoutError):
            return ConfigurationError(
                f"Triton did not load model {name} within {options.start_timeout_s:g} s, warm-up included; large models take "
                f"longer: raise SHITU_START_TIMEOUT_S {log}"
            )
        if isinstance(error, TritonSilentError):
            return ConfigurationError(
                f"Triton stopped answering while it was to load model {name}: {error}; a server that is running starts it again, "
                f"then send SIGHUP once more {log}"
            )
        return ConfigurationError(
            f"Triton cannot load model {name} from {options.repository / name}: {error}; repair or replace it {log}"
        )
