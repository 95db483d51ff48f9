"""docs/compatibility.md is what the kept results say. Needs no webui."""

import json

from tests.conflicts.page import PAGE, RESULTS, made_of


def test_page_is_made_of_the_results():
    assert PAGE.read_text() == made_of(json.loads(RESULTS.read_text()))
