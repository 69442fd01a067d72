"""Fetches and converts the pool's model before anything is started."""

import asyncio
import threading
from pathlib import Path

from roost_operator.api.spec import Model
from roost_operator.local.events import Event, Report
from roost_worker.convert.layout import PreparedModel
from roost_worker.convert.store import ModelStore


async def prepare_model(model: Model, cache_dir: Path | None, report: Report) -> PreparedModel:
    """The model in the store. Raises ConvertError, whose text names the source and the fix.

    The thread is a daemon: when the caller is cancelled, an unfinished download cannot keep the process alive.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[PreparedModel] = loop.create_future()

    def settle(found: PreparedModel | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if found is not None:
            done.set_result(found)
        elif error is not None:
            done.set_exception(error)

    def progress(stage: str, fraction: float) -> None:
        loop.call_soon_threadsafe(report, Event(f"model {model.name}: {stage}", fraction))

    def work() -> None:
        found, error = None, None
        try:
            found = ModelStore(cache_dir).prepare(model.source, model.dtype.value, progress)
        except Exception as caught:  # handed to the caller
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=work, name="prepare-model", daemon=True).start()
    return await done
