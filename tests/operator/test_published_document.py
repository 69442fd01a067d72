"""When a pool's document is published again."""

from dataclasses import replace

from pool_world import INSTALLATION, World, pool
from roost_operator.plan.plan import plan


def test_a_document_of_an_older_operator_is_published_again_once() -> None:
    world = World()
    world.settle(pool(2))
    published = world.observed.store.document
    assert published is not None
    older = replace(world.observed.store, document=replace(published, schema_version=0))
    planned = plan(pool(2), INSTALLATION, replace(world.observed, store=older))
    assert planned.document == published
    assert plan(pool(2), INSTALLATION, world.observed).document is None


def test_a_document_without_its_name_is_published_again() -> None:
    """As an operator that was killed between the two calls leaves it."""
    world = World()
    world.settle(pool(2))
    unnamed = replace(world.observed, store=replace(world.observed.store, named=False))
    assert plan(pool(2), INSTALLATION, unnamed).document == world.observed.store.document
