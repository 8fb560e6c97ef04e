"""How many wrong keys an address may send, and what it can do after that."""

from __future__ import annotations

import pytest

from eztinker.api import wrong_keys
from eztinker.api.error_responses import RequestRefused
from eztinker.api.wrong_keys import MAX_ADDRESSES, MAX_REMEMBERED, WINDOW_SECONDS, WrongKeys

LIMIT = 3


class Time:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def keys(time: Time) -> WrongKeys:
    return WrongKeys(LIMIT, time)


def is_looked_at(keys: WrongKeys, address: str, key: str = "tml-new") -> bool:
    try:
        keys.check(address, key)
    except RequestRefused:
        return False
    return True


def send_wrong(keys: WrongKeys, address: str, number: int = LIMIT) -> None:
    for _ in range(number):
        assert is_looked_at(keys, address)
        keys.count(address)


def test_an_address_is_turned_away_at_its_limit_alone_and_until_the_minute_is_over(keys: WrongKeys, time: Time):
    send_wrong(keys, "192.0.2.1", LIMIT - 1)
    time.seconds += WINDOW_SECONDS / 2
    assert is_looked_at(keys, "192.0.2.1")
    send_wrong(keys, "192.0.2.1", 1)
    assert not is_looked_at(keys, "192.0.2.1")
    assert is_looked_at(keys, "192.0.2.2")
    with pytest.raises(RequestRefused, match=r"has sent 3 wrong keys in a minute; try again in 30 s") as refusal:
        keys.check("192.0.2.1", "tml-new")
    assert (refusal.value.status, refusal.value.headers) == (429, {"Retry-After": "30"})
    time.seconds += WINDOW_SECONDS / 2 - 0.1
    assert not is_looked_at(keys, "192.0.2.1")
    time.seconds += 0.1
    send_wrong(keys, "192.0.2.1")  # as often as before
    assert not is_looked_at(keys, "192.0.2.1")


def test_a_key_that_was_right_before_is_looked_at_from_any_address(keys: WrongKeys):
    keys.remember("tml-right")
    send_wrong(keys, "192.0.2.1")
    assert is_looked_at(keys, "192.0.2.1", "tml-right")
    assert not is_looked_at(keys, "192.0.2.1", "tml-righ")
    assert not is_looked_at(keys, "192.0.2.1", "")


def test_one_machine_has_many_addresses_of_ipv6(keys: WrongKeys):
    for last in range(LIMIT):
        keys.count(f"2001:db8:0:1::{last}")
    assert not is_looked_at(keys, "2001:db8:0:1:ffff::1")
    assert is_looked_at(keys, "2001:db8:0:2::1")
    send_wrong(keys, "::ffff:192.0.2.1")
    assert not is_looked_at(keys, "192.0.2.1")
    assert is_looked_at(keys, "::ffff:192.0.2.2")
    assert is_looked_at(keys, "fe80::1%eth0")


def test_what_is_kept_is_bounded_and_the_oldest_goes(keys: WrongKeys):
    for number in range(MAX_ADDRESSES + 1):
        send_wrong(keys, f"address {number}")
    assert len(keys._counts) == MAX_ADDRESSES
    assert is_looked_at(keys, "address 0")
    assert not is_looked_at(keys, "address 1")
    for number in range(MAX_REMEMBERED):
        keys.remember(f"tml-{number}")
    keys.remember("tml-0")  # in use, and so not the oldest any more
    keys.remember("tml-one-more")
    assert len(keys._right) == MAX_REMEMBERED
    seen = [is_looked_at(keys, "address 1", key) for key in ("tml-0", "tml-1", "tml-2")]
    assert seen == [True, False, True]


def test_no_key_is_kept():
    """Of those that were right, only salted hashes: the server keeps no key that it has not made itself."""
    keys = WrongKeys(LIMIT)
    keys.remember("tml-right")
    assert "tml-right" not in repr(vars(keys))
    assert wrong_keys.WINDOW_SECONDS <= 60  # the official client obeys no longer Retry-After
