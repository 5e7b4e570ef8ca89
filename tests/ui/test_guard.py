"""Who asks: the address of the connection, whatever headers say; a trusted proxy is uvicorn's matter."""

from types import SimpleNamespace

import pytest

from rcdm.ui.guard import Rate, client_of


def asked_by(host: str, forwarded: str | None = None) -> SimpleNamespace:
    """What gradio hands on of a request."""
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    return SimpleNamespace(headers=headers, client=SimpleNamespace(host=host))


@pytest.mark.parametrize("forwarded", [None, "", "1.2.3.4", "6.6.6.6, 1.2.3.4", "10.0.0.1, "])
def test_a_header_does_not_say_who_asks(forwarded):
    assert client_of(asked_by("10.0.0.1", forwarded)) == "10.0.0.1"


def test_nobody_has_no_address():
    assert client_of(None) == "" and client_of(SimpleNamespace(headers={}, client=None)) == ""


def test_made_up_addresses_do_not_reset_the_count():
    rate = Rate(2)
    for k in range(2):
        rate.check(asked_by("10.0.0.1", f"6.6.6.{k}, 1.2.3.4"))
    with pytest.raises(ValueError, match="within a minute: wait"):
        rate.check(asked_by("10.0.0.1", "6.6.6.9, 1.2.3.4"))
    rate.check(asked_by("10.0.0.2", "6.6.6.9, 1.2.3.4"))
