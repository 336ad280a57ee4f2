"""Who may use which routes: whoever has the key.

Two kinds of key: the admin token, for audits, data sets and models; and inference keys, for
answers, where the service is closed to others. After the start only digests are in memory.
"""

import hashlib
import hmac
import ipaddress
import math
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from fastapi import Request
from pydantic import SecretStr

from fend.errors import Busy, Invalid
from service.api.services import services
from service.settings import Settings

HASHED = re.compile(r"sha256:([0-9a-f]{64})")
"""A key that is configured by its digest, so that nobody who reads the file has the key."""


SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key."},
    "api-key": {
        "type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."
    },
}  # fmt: skip
"""How a key is sent, for OpenAPI."""

PRIVATE = ("/v1/admin/", "/v2/repository/models/")
"""Paths for administrators begin so."""

MAX_FAILURES = 10
WINDOW_S = 60.0
"""So many wrong keys in that time, and further ones are refused unread until the first is so old.
A right key always passes: others may share its address."""
MAX_ADDRESSES = 10_000
"""Remembered at once; the one that failed longest ago is forgotten first."""
MIN_KEY_LENGTH, MIN_KEY_CHARACTERS = 16, 5
"""Of a key that faces a network, where it is not configured by its digest: its length, and how many
different characters it has."""


@dataclass(frozen=True)
class Key:
    """The SHA-256 digest of a key."""

    digest: bytes = field(repr=False)

    @property
    def hashed(self) -> str:
        """As it may be configured."""
        return f"sha256:{self.digest.hex()}"

    def matches(self, candidate: str) -> bool:
        """Compare in constant time, whatever the lengths."""
        return hmac.compare_digest(self.digest, hashlib.sha256(candidate.encode()).digest())


@dataclass(frozen=True)
class Access:
    """All keys of the service."""

    admin: Key
    admin_source: str
    generated: str | None = field(repr=False)
    """The admin token where it was made at this start, to be shown once."""
    inference: tuple[Key, ...]
    """Empty: whoever reaches the service may ask it."""
    own_key: str = field(repr=False)
    """Key with which the service asks itself, after an audit."""

    def may_administer(self, candidate: str) -> bool:
        """Whether this is the admin token."""
        return self.admin.matches(candidate)

    def may_infer(self, candidate: str) -> bool:
        """Whether this is an inference key, the admin token, or the service's own."""
        keys = (*self.inference, self.admin, _key(self.own_key))
        return any(key.matches(candidate) for key in keys)


def read_access(settings: Settings) -> Access:
    """The keys in the settings; with no admin token configured, a new one.

    Raises:
        Invalid: a key is empty, configured twice, or its file cannot be read.
    """
    admin = _configured("admin_token", settings.admin_token, settings.admin_token_file)
    inference = _configured("inference_key", settings.inference_key, settings.inference_key_file)
    own_key = secrets.token_urlsafe(24)
    inference_keys = tuple(_key(text) for text in inference.split()) if inference else ()
    if admin is None:
        token = secrets.token_urlsafe(24)
        return Access(_key(token), "this start", token, inference_keys, own_key)
    flag = "--admin-token or FEND_ADMIN_TOKEN"
    source = str(settings.admin_token_file or flag)
    return Access(_key(admin), source, None, inference_keys, own_key)


def check_exposure(settings: Settings) -> None:
    """Refuse to face a network by accident.

    Raises:
        Invalid: the address is not of this machine alone, and there is no admin token of
            somebody's choice, or answers are open to all without that being said, or a key is
            easily guessed.
        Invalid: as `read_access`.
    """
    if loopback(settings.host):
        return
    if settings.admin_token is None and settings.admin_token_file is None:
        raise _exposed(
            f"host {settings.host} can be reached from other machines, and no admin token is set: "
            "set FEND_ADMIN_TOKEN_FILE (`fend key` makes one), or listen on 127.0.0.1"
        )
    closed = settings.inference_key is not None or settings.inference_key_file is not None
    if not closed and not settings.open_inference:
        raise _exposed(
            f"host {settings.host} can be reached from other machines, and everybody there could "
            "ask the models: set FEND_INFERENCE_KEY_FILE, or FEND_OPEN_INFERENCE=true if that is "
            "meant, or listen on 127.0.0.1"
        )
    admin = _configured("admin_token", settings.admin_token, settings.admin_token_file)
    inference = _configured("inference_key", settings.inference_key, settings.inference_key_file)
    for name, keys in (("admin_token", [admin]), ("inference_key", (inference or "").split())):
        if any(_weak(key) for key in keys if key):
            raise _exposed(
                f"host {settings.host} can be reached from other machines, and the {name} is "
                f"easily guessed: take one that `fend key` makes (at least {MIN_KEY_LENGTH} "
                "characters, not the same ones again and again), or listen on 127.0.0.1"
            )


def _weak(key: str) -> bool:
    if HASHED.fullmatch(key):
        return False
    periodic = key in (key + key)[1:-1]
    return periodic or len(key) < MIN_KEY_LENGTH or len(set(key)) < MIN_KEY_CHARACTERS


def _exposed(message: str) -> Invalid:
    return Invalid(message, code="exposure_refused")


class FailedLogins:
    """The wrong keys of late, by address. A right key resets nothing: it may be luck."""

    def __init__(self) -> None:
        self._times_s: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Return when `address` may try a key; raises Busy when it may not."""
        times_s = self._times_s.get(address)
        if times_s is not None and len(times_s) == MAX_FAILURES:
            wait_s = times_s[0] + WINDOW_S - time.monotonic()
            if wait_s > 0:
                retry_after_s = max(1, math.ceil(wait_s))
                raise Busy(
                    f"too many wrong keys came from your address; try again in {retry_after_s} s",
                    code="too_many_failures",
                    retry_after_s=retry_after_s,
                )

    def count(self, address: str) -> None:
        """Note a wrong key."""
        times_s = self._times_s.setdefault(address, deque(maxlen=MAX_FAILURES))
        times_s.append(time.monotonic())
        self._times_s.move_to_end(address)
        if len(self._times_s) > MAX_ADDRESSES:
            self._times_s.popitem(last=False)


async def require_admin(request: Request) -> None:
    """Let the request pass when it carries the admin token.

    Raises:
        Invalid (`unauthorized`): it does not.
        Busy: its address sent too many wrong keys.
    """
    _check(request, services(request).access.may_administer, "the admin token")


async def require_inference(request: Request) -> None:
    """Let the request pass when it carries an inference key, or when none is configured.

    Raises:
        Invalid (`unauthorized`), Busy.
    """
    access = services(request).access
    if access.inference:
        _check(request, access.may_infer, "an inference key")


def _check(request: Request, right: Callable[[str], bool], needed: str) -> None:
    key = _presented(request)
    if key is not None and right(key):
        return
    how = "send the header Authorization: Bearer <key>, or X-API-Key: <key>"
    if key is None:
        other = "; the Authorization that came has another form" * (
            "authorization" in request.headers
        )
        raise _unauthorized(f"this route needs {needed}, and no key came: {how}{other}")
    address = _network(request.client.host if request.client else "unknown")
    services(request).failed_logins.check(address)
    services(request).failed_logins.count(address)
    services(request).metrics.failed_logins.inc()
    structlog.get_logger().warning("wrong key", address=address)
    raise _unauthorized(
        f"this route needs {needed}, and the key that came is another: check that it is whole, "
        "current, and meant for this service"
    )


def _unauthorized(message: str) -> Invalid:
    return Invalid(message, code="unauthorized", status=401)


def _presented(request: Request) -> str | None:
    """The key in the headers. Read here: FastAPI's two classes for it cost a tenth of an answer."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return request.headers.get("x-api-key") or None


def _network(host: str) -> str:
    """Network in which one caller can choose addresses: of IPv6 the first 64 bits."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))


def _configured(name: str, given: SecretStr | None, file: Path | None) -> str | None:
    if given is not None and file is not None:
        raise Invalid(
            f"{name} and {name}_file are both set; keep one of them", code="settings_invalid"
        )
    if file is not None:
        try:
            text = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(
                f"{name}_file: cannot read {file}: {error}", code="settings_invalid"
            ) from error
    elif given is not None:
        text = given.get_secret_value().strip()
    else:
        return None
    if not text:
        raise Invalid(
            f"{name} is empty; set one that is hard to guess, or none", code="settings_invalid"
        )
    return text


def _key(text: str) -> Key:
    hashed = HASHED.fullmatch(text)
    return Key(bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(text.encode()).digest())


def loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
