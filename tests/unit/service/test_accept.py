"""What a client that says Accept gets."""

import pytest

from service.api.v1.audits import preferred

OFFERS = ("application/json", "text/html", "text/markdown")
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("*/*", "application/json"),  # curl
        (FIREFOX, "text/html"),
        ("text/markdown", "text/markdown"),
        ("text/*", "text/html"),
        ("text/html;q=0.5, text/markdown", "text/markdown"),
        ("text/html;q=0, */*", "application/json"),
        ("application/json;q=0.2, text/html; q=0.3", "text/html"),
        ("text/html;q=high", None),
        ("image/png", None),
        ("", None),
    ],
)
def test_the_form_that_the_client_ranks_highest(accept: str, chosen: str | None) -> None:
    assert preferred(accept, OFFERS) == chosen
