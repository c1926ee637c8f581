"""Repetitions, the budget of vain waits, and the breaker."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonsync.errors import RemoteOffError
from tritonsync.remote import waiting as module
from tritonsync.remote.waiting import Breaker, Budget, RetryPolicy


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class PassingError(Exception):
    """One that may be gone the next time."""


def is_passing(exc: BaseException) -> bool:
    return isinstance(exc, PassingError)


def test_a_call_is_repeated_until_it_succeeds() -> None:
    """So often as it takes, and no more."""
    calls: list[float] = []

    def call(left: float) -> str:
        calls.append(left)
        if len(calls) < 3:
            raise PassingError
        return "done"

    assert RetryPolicy(pause=0.001, max_pause=0.002).repeat(call, 10.0, is_passing) == "done"
    assert len(calls) == 3
    assert 10.0 >= calls[0] > calls[1] > calls[2] > 0


def test_the_last_error_is_raised_after_the_last_attempt() -> None:
    """And it is the call's own."""
    calls: list[float] = []

    def call(left: float) -> None:
        calls.append(left)
        raise PassingError(len(calls))

    with pytest.raises(PassingError, match="4"):
        RetryPolicy(attempts=4, pause=0.001, max_pause=0.002).repeat(call, 10.0, is_passing)


def test_other_errors_are_not_repeated() -> None:
    """What will not pass is raised at once."""
    calls: list[float] = []

    def call(left: float) -> None:
        calls.append(left)
        raise KeyError

    with pytest.raises(KeyError):
        RetryPolicy().repeat(call, 10.0, is_passing)
    assert len(calls) == 1


def test_no_pause_is_begun_that_would_outlast_the_time() -> None:
    """Better the error that is known than a time-out."""
    calls: list[float] = []

    def call(left: float) -> None:
        calls.append(left)
        raise PassingError

    began = time.monotonic()
    with pytest.raises(PassingError):
        RetryPolicy(attempts=1000, pause=60, max_pause=60).repeat(call, 0.05, is_passing)
    assert time.monotonic() - began < 30


def test_large_uploads_have_more_time() -> None:
    """Unless the caller says how much."""
    policy = RetryPolicy(deadline=60, upload_rate=1e6)
    assert policy.seconds(None) == 60
    assert policy.seconds(None, upload=500_000_000) == 560
    assert policy.seconds(5, upload=500_000_000) == 5


def test_a_vain_wait_is_charged(clock: Clock) -> None:
    """Its whole time, as soon as it goes on."""
    budget = Budget(20)
    assert budget.left == 20
    with budget.wait():
        clock.now += 3
        assert budget.left == 17
        clock.now += 2
    clock.now += 100
    assert budget.left == 15


def test_a_wait_that_pays_off_is_given_back(clock: Clock) -> None:
    """Two hundred hits of a second each spend nothing."""
    budget = Budget(20)
    for _ in range(200):
        with budget.wait() as wait:
            clock.now += 1
            assert budget.left == 19
            wait.paid_off()
    assert budget.left == 20


def test_what_was_no_wait_for_the_bucket_is_not_charged(clock: Clock) -> None:
    """Of ten seconds in vain, seven went to a neighbour; what paid off anyway leaves no credit behind."""
    budget = Budget(20)
    with budget.wait():
        clock.now += 7
        budget.excuse(7)
        assert budget.left == 20
        clock.now += 3
        assert budget.left == 17
    assert budget.left == 17
    with budget.wait() as wait:
        clock.now += 5
        budget.excuse(5)
        wait.paid_off()
    with budget.wait():
        clock.now += 4
    assert budget.left == 13


def test_an_error_is_a_vain_wait(clock: Clock) -> None:
    """The budget is charged whatever ends the block."""
    budget = Budget(20)

    def interrupted() -> None:
        with budget.wait():
            clock.now += 4
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert budget.left == 16


def test_a_spent_budget_stays_spent(clock: Clock) -> None:
    """Nothing is left, and never less than nothing."""
    budget = Budget(5)
    with budget.wait():
        clock.now += 50
        assert budget.left == 0
    assert budget.left == 0


def test_waits_of_several_threads_count_once(clock: Clock) -> None:
    """What counts is the time in which anybody waited in vain."""
    budget = Budget(20)
    with budget.wait():
        clock.now += 1
        with budget.wait():
            clock.now += 2
        with budget.wait() as wait:
            clock.now += 1
            wait.paid_off()
    assert budget.left == 16


def test_a_hit_inside_a_vain_wait_gives_nothing_back(clock: Clock) -> None:
    """And a vain wait inside a hit is charged alone."""
    budget = Budget(20)
    with budget.wait() as outer:
        clock.now += 5
        with budget.wait():
            clock.now += 2
        clock.now += 5
        outer.paid_off()
    assert budget.left == 18


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 20), st.booleans()),
        max_size=12,
    )
)
def test_the_charge_is_the_union_of_vain_waits(waits: list[tuple[int, int, bool]]) -> None:
    """Whatever the overlap, each second is charged once if anybody waited in vain in it."""
    events = sorted(
        [(start, 1, number) for number, (start, _length, _paid) in enumerate(waits)]
        + [(start + length, 2, number) for number, (start, length, _paid) in enumerate(waits)]
    )
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", clock)
        budget = Budget(1000)
        open_waits = {}
        for when, what, number in events:
            clock.now = float(when)
            if what == 1:
                context = budget.wait()
                open_waits[number] = (context, context.__enter__())
            else:
                context, wait = open_waits.pop(number)
                if waits[number][2]:
                    wait.paid_off()
                context.__exit__(None, None, None)
        vain = {second for start, length, paid in waits if not paid for second in range(start, start + length)}
        assert budget.left == 1000 - len(vain)


def test_threads_may_share_a_budget() -> None:
    """Nothing is lost or counted twice under real threads."""
    budget = Budget(60)
    inside = threading.Barrier(8)

    def work() -> None:
        for number in range(50):
            with budget.wait() as wait:
                if number % 2:
                    wait.paid_off()
        with budget.wait():
            inside.wait()
            time.sleep(0.2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = 60 - budget.left
    assert 0.2 <= spent <= time.monotonic() - began


def test_the_breaker_opens_after_failures_in_a_row(clock: Clock) -> None:
    """A healthy call in between begins anew."""
    breaker = Breaker(3, 30)
    for healthy in (False, False, True, False, False):
        breaker.admit("x")
        breaker.record(healthy=healthy)
    breaker.admit("x")
    breaker.record(healthy=False)
    with pytest.raises(RemoteOffError, match=r"x was not asked for: 3 calls in a row failed; trying again in 30 s"):
        breaker.admit("x")


def test_a_half_open_breaker_lets_one_call_try(clock: Clock) -> None:
    """The others wait for its result; a failure opens it again, a success closes it."""
    breaker = Breaker(2, 30)
    for _ in range(2):
        breaker.record(healthy=False)
    clock.now += 31
    breaker.admit("trial")
    with pytest.raises(RemoteOffError):
        breaker.admit("another")
    breaker.record(healthy=False)
    with pytest.raises(RemoteOffError):
        breaker.admit("too early")
    clock.now += 31
    breaker.admit("trial")
    breaker.record(healthy=True)
    for _ in range(5):
        breaker.admit("anything")


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_begins_afresh() -> None:
    """Locks held by threads that the child does not have, and their open waits, do not reach it."""
    budget = Budget(20)
    breaker = Breaker(1, 30)
    breaker.record(healthy=False)
    with budget.wait(), budget._lock, breaker._lock:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with budget.wait():
                    breaker.admit("x")
                status = 0 if 19 < budget.left <= 20 else 2
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
