"""Confusion matrix and changed samples in a real browser, against the verification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.made_pages import Edited, Shown


def test_confusion_counts_every_sample(shown: Shown, open_page: Callable[..., Any]) -> None:
    page, found = open_page(shown.page), shown.files["verification"]
    rows = page.locator("table.confusion tbody tr")
    counts = [
        [int(cell) for cell in row.locator("td[data-count]").evaluate_all("each => each.map(one => one.dataset.count)")]
        for row in rows.all()
    ]
    expected = [[0] * len(counts) for _ in counts]
    for label, predicted in zip(found["labels"], found["predictions"], strict=True):
        expected[label][predicted] += 1
    assert counts == expected
    assert sum(map(sum, counts)) == found["samples"]


def test_samples_that_changed_say_how(edited: Edited, open_page: Callable[..., Any]) -> None:
    def change(build: Any) -> None:
        image = build["run"]["images"][1]
        build["verification"] |= {"classes": ["cat", "dog", "<b>x</b>"]}
        build["verification"]["labels"][1] = build["verification"]["predictions_original"][1] = 2
        build["verification"]["predictions"][1] = 0
        build["changed"] = {
            "counts": {"lost": 1, "won": 0, "moved": 0},
            "samples": [{"sample": 1, "kind": "lost", "name": "a/1.png", "image": image}],
            "no_images": None,
        }

    card = open_page(edited(change)).locator("ul.changed li")
    assert card.locator(".facts > div").all_inner_texts() == [
        "lost",
        "true <b>x</b>",
        "original <b>x</b>",
        "quantized cat",
        "a/1.png",
    ]
    assert card.locator("canvas").evaluate("each => [each.width, each.height]") == [16, 16]


def test_many_classes_are_listed_by_their_mistakes(edited: Edited, open_page: Callable[..., Any]) -> None:
    def change(build: Any) -> None:
        build["verification"] |= {"samples": 3, "labels": [900, 900, 1], "predictions": [7, 7, 1]}
        build["verification"] |= {"predictions_original": [900, 7, 1], "accuracy_intervals": None}
        build["changed"] = None

    page = open_page(edited(change))
    assert page.locator("table.confusion").count() == 0
    assert page.locator("#classes tbody td").all_inner_texts() == ["900", "7", "2", "1"]
