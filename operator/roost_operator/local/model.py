"""Fetches and converts the pool's model before anything starts."""

import asyncio
import threading
from pathlib import Path

from roost_operator.api.model_spec import ModelSpec
from roost_operator.local.events import Notice, Report
from roost_worker.convert.layout import PreparedModel
from roost_worker.convert.store import ModelStore


def is_at_hand(model: ModelSpec, cache_dir: Path | None) -> bool:
    """Whether `prepare_model` has nothing to fetch or to convert. Raises ConvertError as it does."""
    return ModelStore(cache_dir).is_at_hand(model.source, model.dtype)


async def prepare_model(model: ModelSpec, cache_dir: Path | None, report: Report) -> PreparedModel:
    """The model in the model store. Raises ConvertError, whose text names the source and the fix.

    The thread is a daemon, so an unfinished download does not keep the process alive when the caller is cancelled.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[PreparedModel] = loop.create_future()

    def settle(result: PreparedModel | Exception) -> None:
        if done.cancelled():
            return
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)

    def progress(stage: str, fraction: float) -> None:
        loop.call_soon_threadsafe(report, Notice(f"model {model.name}: {stage}", fraction))

    def work() -> None:
        result: PreparedModel | Exception
        try:
            result = ModelStore(cache_dir).prepare(model.source, model.dtype, progress)
        except Exception as error:  # raised again for the caller
            result = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=work, name="prepare-model", daemon=True).start()
    return await done
