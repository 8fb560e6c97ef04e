"""Keys of several owners: what is kept of them, and when they stop working."""

from __future__ import annotations

import hashlib
import multiprocessing
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from eztinker.errors import ConfigError, InvalidInput, NotFound, ServerError
from eztinker.keys.issued_keys import ISSUED_KEYS_FILE, issue_key, issued_keys, revoke_key
from eztinker.keys.server_key import ensure_signing_secret
from eztinker.service.accounts.access import LOCAL_OWNER, KeyHolder, Keys
from eztinker.service.accounts.tokens import LIFETIME, Tokens
from eztinker.service.clock import Clock

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SERVER_KEY = "tml-the-server-s-own"


def owner_of(keys: Keys, key: str) -> str | None:
    holder = keys.holder_of(key)
    return None if holder is None else holder.owner


def test_a_key_is_kept_as_a_hash_for_the_owner_of_the_file_alone(tmp_path: Path):
    new = issue_key(tmp_path, "ann", NOW)
    path = tmp_path / ISSUED_KEYS_FILE
    assert new.key.startswith("tml-1-")
    assert len(new.key) - len("tml-1-") == 43  # 256 bits in base 64
    assert new.key not in path.read_text()
    assert new.key.rpartition("-")[2] not in path.read_text()
    assert hashlib.sha256(new.key.encode()).hexdigest() in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_belong_to_owners_and_the_servers_own_key_goes_on(tmp_path: Path):
    keys = Keys(SERVER_KEY, tmp_path)
    ann, again, bob = (issue_key(tmp_path, owner, NOW).key for owner in ("ann", "ann", "bob"))
    assert [owner_of(keys, key) for key in (ann, again, bob, SERVER_KEY)] == ["ann", "ann", "bob", LOCAL_OWNER]
    assert len({ann, again, bob}) == 3


def test_nothing_close_to_a_key_is_one(tmp_path: Path):
    keys = Keys(SERVER_KEY, tmp_path)
    first, second = (issue_key(tmp_path, owner, NOW).key for owner in ("ann", "bob"))
    swapped = first.replace("tml-1-", "tml-2-")
    near = [first[:-1], first + "x", swapped, second.upper(), first.replace("tml-1-", "tml-0-"), SERVER_KEY[:-1], ""]
    assert [owner_of(keys, key) for key in near] == [None] * len(near)


def test_a_revoked_key_stops_at_once_and_its_number_never_comes_back(tmp_path: Path):
    ann, bob = issue_key(tmp_path, "ann", NOW), issue_key(tmp_path, "bob", NOW)
    keys = Keys(SERVER_KEY, tmp_path)
    assert owner_of(keys, bob.key) == "bob"
    revoked = revoke_key(tmp_path, bob.issued.key_id, NOW)
    assert (owner_of(keys, bob.key), owner_of(keys, ann.key)) == (None, "ann")
    assert revoke_key(tmp_path, bob.issued.key_id, NOW + timedelta(days=1)) == revoked
    assert issue_key(tmp_path, "eve", NOW).issued.key_id == 3
    with pytest.raises(NotFound, match="No key has the id 9"):
        revoke_key(tmp_path, 9, NOW)


def test_keys_made_by_several_programs_at_once_are_all_kept(tmp_path: Path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        made = pool.starmap(issue_key, [(tmp_path, "ann", NOW)] * 12)
    assert sorted(key.issued.key_id for key in made) == list(range(1, 13))
    assert [key.key_id for key in issued_keys(tmp_path)] == list(range(1, 13))


@pytest.mark.parametrize("owner", ["", ".a", "a b", "a/b", "a\n", "é", "x" * 129])
def test_an_owner_has_a_plain_name(tmp_path: Path, owner: str):
    with pytest.raises(InvalidInput, match="An owner has"):
        issue_key(tmp_path, owner, NOW)
    assert issued_keys(tmp_path) == []


@pytest.mark.parametrize(("text", "mode", "sentence"), [("[", 0o600, "is damaged"), ("[]", 0o644, "chmod 600")])
def test_a_bad_file_stops_the_start_and_lets_nobody_in_later(tmp_path: Path, text: str, mode: int, sentence: str):
    new = issue_key(tmp_path, "ann", NOW)
    keys = Keys(SERVER_KEY, tmp_path)
    path = tmp_path / ISSUED_KEYS_FILE
    path.write_text(text)
    path.chmod(mode)
    assert (owner_of(keys, new.key), owner_of(keys, SERVER_KEY)) == (None, LOCAL_OWNER)
    with pytest.raises(ConfigError, match=sentence):
        Keys(SERVER_KEY, tmp_path)


def test_a_key_that_cannot_be_revoked_stays_and_no_file_is_shown_to_its_holder(tmp_path: Path):
    new = issue_key(tmp_path, "ann", NOW)
    keys = Keys(SERVER_KEY, tmp_path)
    in_the_way = tmp_path / f"{ISSUED_KEYS_FILE}.tmp"
    in_the_way.mkdir()
    with pytest.raises(ServerError, match="could not be revoked and is valid still") as error:
        keys.revoke(holder_in(keys, new.key), NOW)
    assert str(tmp_path) not in error.value.message
    assert owner_of(keys, new.key) == "ann"
    in_the_way.rmdir()
    keys.revoke(holder_in(keys, new.key), NOW)
    assert owner_of(keys, new.key) is None


class At(Clock):
    """A clock that stands where it is put."""

    def __init__(self, now: datetime) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time


def holder_in(keys: Keys, key: str) -> KeyHolder:
    holder = keys.holder_of(key)
    assert holder is not None
    return holder


@pytest.mark.conforms(16)
def test_a_token_stands_for_its_key_as_long_as_both_are_valid(tmp_path: Path):
    secret = ensure_signing_secret(tmp_path)
    assert ensure_signing_secret(tmp_path) == secret
    new = issue_key(tmp_path, "ann", NOW)
    keys = Keys(SERVER_KEY, tmp_path)
    now = datetime.now(UTC)
    tokens = Tokens(secret, keys, At(now))
    token = tokens.issue(holder_in(keys, new.key))
    assert tokens.holder_of(token) == keys.holder_of(new.key)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims == {
        "sub": "tml:user:ann",
        "org_id": "eztinker",
        "email": "",
        "iat": int(now.timestamp()),
        "exp": int((now + LIFETIME).timestamp()),
    }
    expired = Tokens(secret, keys, At(now - LIFETIME - timedelta(seconds=1))).issue(holder_in(keys, new.key))
    assert tokens.holder_of(expired) is None
    revoke_key(tmp_path, new.issued.key_id, NOW)
    assert tokens.holder_of(token) is None


def test_a_token_that_was_taken_before_is_not_when_its_hour_is_over(tmp_path: Path):
    keys = Keys(SERVER_KEY, tmp_path)
    clock = At(datetime.now(UTC))
    tokens = Tokens(ensure_signing_secret(tmp_path), keys, clock)
    token = tokens.issue(holder_in(keys, SERVER_KEY))
    assert tokens.holder_of(token) is not None
    clock.time += LIFETIME
    assert tokens.holder_of(token) is None


def test_no_token_but_our_own_is_taken(tmp_path: Path):
    keys = Keys(SERVER_KEY, tmp_path)
    tokens = Tokens(ensure_signing_secret(tmp_path), keys, Clock())
    token = tokens.issue(holder_in(keys, SERVER_KEY))
    claims = jwt.decode(token, options={"verify_signature": False})
    unsigned = jwt.encode(claims, "", "none", headers={"kid": "0"})
    by_another = Tokens(b"another secret of our very own..", keys, Clock()).issue(holder_in(keys, SERVER_KEY))
    replaced = Tokens(ensure_signing_secret(tmp_path), Keys("tml-a-new-one", tmp_path), Clock())
    head, body, signature = token.split(".")
    forged = [unsigned, by_another, f"{head}.{body}.", f"{head}.{body[:-2]}.{signature}", head, "eyJ", token + "\ud800"]
    assert [tokens.holder_of(each) for each in forged] == [None] * len(forged)
    assert replaced.holder_of(token) is None  # another key of the server, another signature
