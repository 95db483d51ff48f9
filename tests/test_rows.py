"""The row plan and its cursor; the matrix against the real sampler is in tests/host."""

import torch

from lib_attn.unet.rows import IMAGE_ONLY, NEGATIVE, POSITIVE, Cursor, Matcher, Row, plan_rows


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


def images(count, seed=0):
    return torch.randn(count, 4, 6, 5, generator=torch.Generator().manual_seed(seed))


def test_rows_that_come_as_planned():
    rows, latents = plan_rows([[1.0], [0.7, 0.3]]), images(2)
    x = 0.3 * latents[[row.image for row in rows]]
    for given in (x, x.half(), x.bfloat16(), torch.cat([x, torch.randn(5, 5, 6, 5)], 1)):
        assert Matcher(rows, latents).match(rows, given) == tuple(rows)
    matcher = Matcher(rows, latents)
    assert matcher.match(rows[:3], x[:3]) == tuple(rows[:3]) and matcher.match(rows[3:], x[3:]) == tuple(rows[3:])


def test_rows_in_another_order_are_found():
    """Parts of an image keep their order unless their texts say otherwise; weights that cannot be told apart do not."""
    rows, latents = plan_rows([[1.0, 1.0], [1.0, 1.0]]), images(2)
    x, order = latents[[row.image for row in rows]], [0, 2, 1, 3, 4, 5]
    expected = tuple(rows[i] for i in order)
    assert Matcher(rows, latents).match(rows, x[order]) == expected
    matcher = Matcher(rows, latents)
    assert [matcher.match(rows[a:b], x[order][a:b]) for a, b in ((0, 2), (2, 4), (4, 6))] == [
        expected[:2], expected[2:4], expected[4:],
    ]  # fmt: skip
    uneven = plan_rows([[1.0, 0.5], [1.0, 0.5]])
    assert Matcher(uneven, latents).match(uneven, x[order]) is None
    texts = torch.randn(6, 3, 8)
    padded = torch.cat([texts, torch.zeros(6, 2, 8)], 1)
    found = Matcher(uneven, latents, list(texts)).match(uneven, x[order], padded[order])
    assert found == tuple(uneven[i] for i in order)


def test_images_of_one_seed_are_told_apart_by_their_texts():
    rows, latents = plan_rows([[1.0], [1.0]]), images(1).expand(2, -1, -1, -1)
    x, order, texts = latents[[0, 1, 0, 1]], [1, 0, 2, 3], torch.randn(4, 3, 8)
    assert Matcher(rows, latents, list(texts)).match(rows, x, texts[order]) == tuple(rows[i] for i in order)
    assert Matcher(rows, latents).match(rows, x, texts[order]) == tuple(rows), "nothing speaks against the plan"
    assert Matcher(rows, latents, list(texts)).match(rows, x, torch.randn(4, 3, 8)) == tuple(rows), "texts changed"


def test_a_little_variation_is_another_image():
    rows, first = plan_rows([[1.0], [1.0]]), images(1)
    latents = torch.cat([first, first + 0.01 * images(1, seed=5)])
    expected = tuple(rows[i] for i in (1, 0, 2, 3))
    for kind in (torch.float32, torch.float16):
        assert Matcher(rows, latents).match(rows, latents[[1, 0, 0, 1]].to(kind)) == expected


def test_latents_of_nobody():
    rows, latents = plan_rows([[1.0], [1.0]]), images(2)
    other = images(2, seed=3)
    assert Matcher(rows, latents).match(rows, other[[0, 1, 0, 1]]) == tuple(rows), "still copies of one another"
    assert Matcher(rows, latents).match(rows, other[[1, 0, 0, 1]]) is None
    assert Matcher(rows, latents).match(rows, torch.full((4, 4, 6, 5), torch.nan)) is None
    assert Matcher(rows, latents).match(rows, torch.zeros(4, 4, 3, 3)) == tuple(rows)
