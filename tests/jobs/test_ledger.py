from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from jobs.ledger import Ledger, Usage

FIRST = Usage(device_seconds=2.0, tokens=100, label_tokens=40, padding_tokens=7, round_seconds=3.0, alone_seconds=1.5)
SECOND = Usage(device_seconds=1.0, tokens=50, label_tokens=20, round_seconds=3.0, alone_seconds=0.5)


def test_usage_of_an_attempt_is_a_sum_that_may_be_heard_again() -> None:
    ledger = Ledger().heard(1, Usage(device_seconds=0.5)).heard(1, FIRST).heard(1, FIRST)
    assert ledger.total == FIRST
    later = ledger.heard(2, SECOND)
    assert later.settled == FIRST
    assert later.total.device_seconds == 3.0
    assert later.total.tokens == 150


def test_slowdown_is_of_all_rounds_and_unknown_before_one_was_measured() -> None:
    assert Ledger().slowdown is None
    assert Ledger().heard(1, FIRST).heard(2, SECOND).slowdown == pytest.approx(6.0 / 2.0)


def test_waiting_adds_up_and_a_clock_set_back_takes_nothing() -> None:
    ledger = Ledger().waits(100.0).waits(105.0)
    assert ledger.waited(110.0) == 10.0
    ledger = ledger.goes_on(112.0).waits(200.0).goes_on(190.0)
    assert ledger.waiting_seconds == 12.0
    assert ledger.waiting_since_unix_seconds is None
    assert ledger.goes_on(999.0) == ledger


def test_comes_back_from_json_also_from_that_of_another_version() -> None:
    ledger = Ledger(recoveries=2).heard(3, FIRST).waits(5.0)
    content = json.loads(json.dumps(asdict(ledger)))
    assert Ledger.from_json(content) == ledger
    content["current"]["of_tomorrow"] = content["of_tomorrow"] = 1
    assert Ledger.from_json(content) == ledger
    assert Ledger.from_json({}) == Ledger()
