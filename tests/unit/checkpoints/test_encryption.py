"""What is encrypted for a key is opened with it, and with no other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pyrage import (  # a compiled module without type stubs
    DecryptError,  # pyright: ignore[reportAttributeAccessIssue]
    decrypt,  # pyright: ignore[reportAttributeAccessIssue]
    ssh,  # pyright: ignore[reportAttributeAccessIssue]
    x25519,  # pyright: ignore[reportAttributeAccessIssue]
)

from eztinker.checkpoints.encryption import encrypted, parse_recipients
from eztinker.errors import InvalidInput

PARTS = {"a.json": b"{}", "b.bin": bytes(range(256))}


def ssh_key(directory: Path, kind: str) -> tuple[str, bytes]:
    """The public line and the private file of a new key, made by OpenSSH."""
    path = directory / kind
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text(), path.read_bytes()


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_each_recipient_opens_the_files_and_nobody_else(tmp_path: Path, kind: str):
    native, stranger = x25519.Identity.generate(), x25519.Identity.generate()
    public, private = ssh_key(tmp_path, kind)
    files = encrypted(PARTS, parse_recipients([str(native.to_public()), public]))
    assert files.keys() == {"a.json.age", "b.bin.age"}
    for identity in (native, ssh.Identity.from_buffer(private)):
        assert {name.removesuffix(".age"): decrypt(content, [identity]) for name, content in files.items()} == PARTS
    with pytest.raises(DecryptError):
        decrypt(files["a.json.age"], [stranger])


@pytest.mark.parametrize("key", ["", "age1bad", "ssh-ed25519 AAAA", "ssh-dss x", "AGE-SECRET-KEY-1"])
def test_what_is_no_public_key_is_named_by_its_place(key: str):
    good = str(x25519.Identity.generate().to_public())
    with pytest.raises(InvalidInput, match=r"age_encryption_recipients\[1\] must be an age"):
        parse_recipients([good, key])


def test_more_than_ten_recipients_are_refused():
    key = str(x25519.Identity.generate().to_public())
    assert len(parse_recipients([key] * 10)) == 10
    with pytest.raises(InvalidInput, match="At most 10 age_encryption_recipients"):
        parse_recipients([key] * 11)
