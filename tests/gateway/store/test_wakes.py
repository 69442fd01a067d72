"""News of releases and reports, as a listener takes them that may be busy."""

from roost.store.wake import Wake
from roost.store.wakes import ANYTHING, _Inbox


def test_news_that_may_concern_any_step_are_taken_once_and_others_all() -> None:
    inbox, released = _Inbox(), Wake(worker_id="w1", reserved_tokens=3, reserved_attempts=1)
    for wake in (ANYTHING, ANYTHING, released, released, ANYTHING, ANYTHING):
        inbox.put(wake)
    assert inbox.take() == [ANYTHING, released, released, ANYTHING]
    assert inbox.take() == [ANYTHING], "a message may have been lost"
