"""The row plan and its cursor; the matrix against the real sampler is in tests/host."""

from lib_attn.unet.rows import IMAGE_ONLY, NEGATIVE, POSITIVE, Cursor, Row, plan_rows


def test_conditions_come_first_negatives_last():
    rows = plan_rows([[1.0], [0.7, 0.3]])
    assert rows == [
        Row(POSITIVE, 0, 0, 1.0),
        Row(POSITIVE, 1, 0, 0.7),
        Row(POSITIVE, 1, 1, 0.3),
        Row(NEGATIVE, 0),
        Row(NEGATIVE, 1),
    ]


def test_negatives_may_be_missing():
    assert plan_rows([[1.0]], negatives=False) == [Row(POSITIVE, 0)]


def test_edit_models_have_a_third_part():
    signs = [row.sign for row in plan_rows([[1.0], [1.0]], edit=True)]
    assert signs == [POSITIVE] * 2 + [IMAGE_ONLY] * 2 + [NEGATIVE] * 2


def test_cursor_deals_in_order_and_refuses_foreign_calls():
    rows = plan_rows([[1.0], [1.0]])
    cursor = Cursor(rows)
    assert cursor.take(2) == tuple(rows[:2])
    assert cursor.take(3) is None, "more than are left"
    assert cursor.take(0) is None
    assert cursor.take(2) == tuple(rows[2:])
    assert not cursor.open
    assert cursor.take(1) is None, "after the evaluation"


def test_a_closed_cursor_gives_nothing():
    cursor = Cursor(plan_rows([[1.0]]))
    cursor.take(1)
    assert cursor.open, "the negative was skipped"
    cursor.close()
    assert cursor.take(1) is None
