"""Signed webhooks against a real server that misbehaves."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import time

import pytest

from lineside.subscribers.watchdog.notification.message import Message
from lineside.subscribers.watchdog.notification.signing import key_of, signature
from lineside.subscribers.watchdog.notification.target import DeliveryFailed
from lineside.subscribers.watchdog.notification.webhook import Webhook
from tests.subscribers.watchdog.notification.kit import ALERT, SECRET
from tests.support.http_receiver import DROP, HANG, http_receiver

MESSAGE = Message("msg_1", "opened", ALERT)


def test_the_signature_is_that_of_the_standards_own_test() -> None:
    """The vector of libraries/python/tests of github.com/standard-webhooks/standard-webhooks."""
    made = signature(
        key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_can_verify_what_it_gets() -> None:
    with http_receiver() as receiver:
        Webhook(f"{receiver.url}/hook?a=b", SECRET).send([MESSAGE])
        [request] = receiver.taken
    assert (request.method, request.path) == ("POST", "/hook?a=b")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "msg_1"
    timestamp = request.headers["webhook-timestamp"]
    assert abs(time.time() - int(timestamp)) < 100
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = f"msg_1.{timestamp}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert request.json["type"] == "alert.opened"


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_!", SECRET[6:]])
def test_a_secret_of_another_form_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and the base64"):
        Webhook("http://127.0.0.1", secret)


def failure(*answers: object) -> DeliveryFailed:
    with http_receiver(*answers) as receiver:
        with pytest.raises(DeliveryFailed) as caught:
            Webhook(f"{receiver.url}/secret-path", SECRET, timeout=0.3).send([MESSAGE])
        assert "secret-path" not in str(caught.value)
        assert len(receiver.requests) == 1, "no redirect is followed, and nothing is tried twice"
        return caught.value


def test_each_way_to_fail_has_a_reason() -> None:
    assert str(failure(500)) == "the answer was 500 Internal Server Error"
    assert str(failure((302, {"Location": "/elsewhere"}))).endswith("which is not followed")
    assert str(failure(HANG)) == "no answer in time"
    assert str(failure(DROP)) == "Connection reset by peer" or "RemoteDisconnected" in str(
        failure(DROP)
    )
    with http_receiver() as receiver:
        url = receiver.url
    with pytest.raises(DeliveryFailed, match="Connection refused"):
        Webhook(url, SECRET).send([MESSAGE])
    for address in ("http://no-such-host.invalid", f"http://{'x' * 70}.org", "http://h/a b"):
        with pytest.raises(DeliveryFailed):
            Webhook(address, SECRET).send([MESSAGE])


def test_the_pause_that_a_receiver_asks_for_is_understood() -> None:
    assert failure((429, {"Retry-After": "120"})).retry_after == 120
    at = email.utils.formatdate(time.time() + 3600, usegmt=True)
    assert failure((503, {"Retry-After": at})).retry_after == pytest.approx(3600, abs=60)
    assert failure((503, {"Retry-After": "soon"})).retry_after is None
    gone = failure(410)
    assert gone.is_final
