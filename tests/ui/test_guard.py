"""Who asks: what is written before the last proxy's word can be made up."""

from types import SimpleNamespace

import pytest

from rcdm.ui.guard import Rate, client_of


def asked_by(forwarded: str | None, host: str = "10.0.0.1") -> SimpleNamespace:
    """What gradio hands on of a request through proxies that each wrote down whom they answered."""
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    return SimpleNamespace(headers=headers, client=SimpleNamespace(host=host))


@pytest.mark.parametrize(("forwarded", "client"), [
    (None, "10.0.0.1"), ("", "10.0.0.1"), ("1.2.3.4", "1.2.3.4"), ("6.6.6.6, 1.2.3.4", "1.2.3.4"),
    ("6.6.6.6,7.7.7.7 , 1.2.3.4 ", "1.2.3.4"), ("6.6.6.6, ", "10.0.0.1"),
])  # fmt: skip
def test_the_last_proxy_says_who_asks(forwarded, client):
    assert client_of(asked_by(forwarded)) == client


def test_nobody_has_no_address():
    assert client_of(None) == "" and client_of(SimpleNamespace(headers={}, client=None)) == ""


def test_made_up_addresses_do_not_reset_the_count():
    rate = Rate(2)
    for k in range(2):
        rate.check(asked_by(f"6.6.6.{k}, 1.2.3.4"))
    with pytest.raises(ValueError, match="within a minute: wait"):
        rate.check(asked_by("6.6.6.9, 1.2.3.4"))
    rate.check(asked_by("6.6.6.9, 1.2.3.5"))
