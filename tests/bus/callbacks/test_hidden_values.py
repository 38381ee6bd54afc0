"""Which values are hidden in the text of an error about a callback."""

from __future__ import annotations

import pytest

from lineside.bus.callbacks.hidden_values import hide_secrets

ENV = {"COMPANY": "tok-1+2", "WANDB_API_KEY": "0123abcd", "HOME": "/home/ada", "SHORT_KEY": "abc"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("401 for tok-1+2", "401 for <COMPANY>"),  # ${COMPANY} of the arguments
        ("GET /?key=tok-1%2B2", "GET /?key=<COMPANY>"),
        ("login 0123abcd", "login <WANDB_API_KEY>"),  # no entry names it
        ("bad s3cret", "bad <args.auth.password>"),
        ("bad t0ken", "bad <environment.MY_TOKEN>"),
        ("no route to http://ada:pw@host:1/x", "no route to http://<user>@host:1/x"),
        ("/home/ada has abc at step 1000 of a run", "/home/ada has abc at step 1000 of a run"),
    ],
)
def test_secrets_are_replaced_by_their_names_and_other_values_stay(text: str, shown: str) -> None:
    args = {"key_of": ["${COMPANY}"], "auth": {"password": "s3cret"}, "steps": 1000}
    assert hide_secrets(text, args, {"MY_TOKEN": "t0ken"}, ENV) == shown
