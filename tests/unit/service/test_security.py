"""Keys: where they are from, what is kept of them, and when the service refuses to start."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fend.errors import Busy, Invalid
from service.api.security import (
    MAX_ADDRESSES,
    MAX_FAILURES,
    FailedLogins,
    _network,
    check_exposure,
    read_access,
)
from service.key_cli import key as key_command
from service.settings import Settings


def test_the_admin_token_is_generated_read_or_refused(tmp_path: Path) -> None:
    made = read_access(Settings())
    assert made.may_administer(made.generated)
    assert not made.may_administer("")
    assert made.generated not in repr(made)

    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    read = read_access(Settings(admin_token_file=file))
    assert read.may_administer("from-a-file")
    assert read.generated is None

    for bad in (
        Settings(admin_token=" "),
        Settings(admin_token="a", admin_token_file=file),
        Settings(admin_token_file=tmp_path / "none"),
        Settings(inference_key=""),
        Settings(inference_key="a", inference_key_file=file),
    ):
        with pytest.raises(Invalid):
            read_access(bad)


def test_of_configured_keys_nothing_readable_is_kept() -> None:
    access = read_access(Settings(admin_token="the-admins", inference_key="one two"))
    kept = repr(vars(access)) + repr([vars(key) for key in access.inference])
    for text in ("the-admins", "one", "two"):
        assert f"'{text}'" not in kept
    assert [access.may_infer(key) for key in ("one", "two", "the-admins", "three", "one two")] == [
        True, True, True, False, False
    ]  # fmt: skip
    assert not access.may_administer("one")
    assert access.may_infer(access.own_key)
    assert not access.may_administer(access.own_key)


def test_fend_key_makes_a_key_that_the_service_knows_by_its_digest() -> None:
    app = typer.Typer()
    app.command()(key_command)
    done = CliRunner().invoke(app, [])
    key, digest = done.stdout.split()
    access = read_access(Settings(admin_token=digest))
    assert access.may_administer(key)
    assert not access.may_administer(digest), "who reads the file would have the key"


GOOD, DIGEST = "kR3-long-enough_2", "sha256:" + 64 * "0"


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, None),
        ({"host": "::1"}, None),
        ({"host": "localhost"}, None),
        ({"host": "0.0.0.0"}, "no admin token"),
        ({"host": "fend.example", "open_inference": True}, "no admin token"),
        ({"admin_token": "a"}, None),
        ({"host": "0.0.0.0", "admin_token": GOOD}, "everybody there could ask"),
        ({"host": "::", "admin_token": GOOD, "inference_key": "another-good-key.1"}, None),
        ({"host": "192.0.2.1", "admin_token": GOOD, "open_inference": True}, None),
        ({"host": "0.0.0.0", "admin_token": DIGEST, "open_inference": True}, None),
        *(
            ({"host": "0.0.0.0", "admin_token": weak, "open_inference": True}, "`fend key`")
            for weak in (
                "a",
                "hunter2",
                "fifteen-letters",
                "a" * 40,
                "secret" * 4,
                "abcabcabcabcabcc",
            )
        ),
        ({"host": "::", "admin_token": GOOD, "inference_key": f"{GOOD} b"}, "inference_key is eas"),
    ],
)
def test_the_service_faces_a_network_only_on_purpose(settings, refused) -> None:
    if refused is None:
        check_exposure(Settings(**settings))
    else:
        with pytest.raises(match=refused):
            check_exposure(Settings(**settings))


def test_an_address_with_too_many_wrong_keys_is_refused_and_others_are_not() -> None:
    failures = FailedLogins()
    for _ in range(MAX_FAILURES):
        failures.check("192.0.2.1")
        failures.count("192.0.2.1")
    with pytest.raises(Busy) as refused:
        failures.check("192.0.2.1")
    assert 1 <= refused.value.retry_after_s <= 60
    failures.check("192.0.2.2")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_ipv6_counts_as_networks(one: str, other: str, same: bool) -> None:
    assert (_network(one) == _network(other)) is same


def test_the_memory_of_wrong_keys_is_bounded() -> None:
    failures = FailedLogins()
    for number in range(MAX_ADDRESSES + 50):
        failures.count(f"address {number}")
    assert len(failures._times_s) == MAX_ADDRESSES
