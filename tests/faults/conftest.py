"""A pool for each file of fault tests: what one case kills is restarted before the next."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from fault_stack import FaultStack, fault_stack
from roost import Client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    async with fault_stack(tmp_path_factory.mktemp("faults")) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(pool: FaultStack) -> AsyncIterator[Client]:
    async with await Client.connect(pool.stack.targets) as client:
        yield client
