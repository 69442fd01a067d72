"""When a pool's document is published again."""

from dataclasses import replace

from pool_world import INSTALLATION, World, pool
from roost_operator.plan.plan import plan


def test_a_document_of_an_older_operator_is_published_again_once() -> None:
    world = World()
    world.settle(pool(2))
    published = world.seen.store.document
    assert published is not None
    older = replace(world.seen.store, document=replace(published, schema_version=0))
    made = plan(pool(2), INSTALLATION, replace(world.seen, store=older))
    assert made.document == published
    assert plan(pool(2), INSTALLATION, world.seen).document is None


def test_a_document_without_its_name_is_published_again() -> None:
    """As an operator that was killed between the two calls leaves it."""
    world = World()
    world.settle(pool(2))
    unnamed = replace(world.seen, store=replace(world.seen.store, named=False))
    assert plan(pool(2), INSTALLATION, unnamed).document == world.seen.store.document
