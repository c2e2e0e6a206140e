"""The first sliders, on a made-up experiment: moved to every stop, each question is answered."""

from __future__ import annotations

import importlib
import itertools

import pytest
import toy_pages

from segleak_utils.figures import widgets

CONTROLS = {
    "00_start_here": 1,
    "01_victim_inference": 1,
    "02_structured_loss_map": 3,
    "03_attack_training": 2,
    "05_roc_analysis": 3,
    "06_beyond_the_paper": 2,
}
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def box_of(name: str, monkeypatch, **spoilt: str):
    """The box that the notebook's cells show; spoilt: text in them, replaced."""
    monkeypatch.setattr(widgets, "display", lambda bundle, **how: None)
    for module, made in toy_pages.STANDS_IN:  # what a prelude sets is put back after the test
        of = importlib.import_module(f"segleak_utils.{module}")
        monkeypatch.setattr(of, made, getattr(of, made))
    names: dict[str, object] = {}
    for cell in toy_pages.slider_of(name).cells:
        source = cell.source
        for old, new in spoilt.items():
            source = source.replace(old, new)
        exec(source, names)
    return names["box"]


@pytest.mark.parametrize("name", toy_pages.PRELUDES)
def test_every_stop_has_its_picture_and_every_question_its_answer(name, monkeypatch):
    box = box_of(name, monkeypatch)
    assert len(box.controls) == CONTROLS[name]
    (asked,) = (w for w in box.children if "segleak-questions" in w._dom_classes)
    assert asked.value.count("<li>") == 3 and "<b>" not in asked.value, "answered unasked"
    with monkeypatch.context() as quick:
        quick.setattr(widgets.frames, "drawn", lambda *_: box.drawn)
        on_the_page = widgets.frames.frames(box, most=10)  # which has few stops
    for k, text in enumerate(on_the_page["questions"]):
        assert any(frame["answers"][k] for frame in on_the_page["frames"]), text
    for control in box.controls.values():  # each on its own, from where it began
        start, pictures = control.index, set()
        for index in range(len(control.options)):
            control.index = index
            assert bytes(box.picture.value).startswith(SIGNATURE)
            pictures.add(bytes(box.picture.value))
        assert len(pictures) > 0.8 * len(control.options), "pictures that do not change"
        control.index = start
    stops = {name: widgets.frames.stops_of(control) for name, control in box.controls.items()}
    places = [{k: v for k, (_, v) in zip(stops, at, strict=True)}
              for at in itertools.product(*stops.values())]  # fmt: skip
    for _, answer in box.asks.questions:  # some want two controls moved
        for name, value in next(place for place in places if answer(**place)).items():
            box.controls[name].value = value
    assert asked.value.count("<b>") == 3, asked.value
    assert "nan" not in asked.value and "None" not in asked.value


@pytest.mark.parametrize("name", toy_pages.PRELUDES)
def test_a_slider_begins_where_a_hand_can_move_it(name, monkeypatch):
    """The browser's tests move a handle by a key, then to its right end."""
    for control in box_of(name, monkeypatch).controls.values():
        assert control.index + 2 < len(control.options)


@pytest.mark.parametrize("name", toy_pages.PRELUDES)
def test_a_slider_that_breaks_when_moved_is_seen(name, monkeypatch):
    box = box_of(name, monkeypatch)
    monkeypatch.setattr(widgets.frames, "drawn", lambda render, values: 1 / 0)
    control = next(iter(box.controls.values()))
    with pytest.raises(ZeroDivisionError):
        control.index += 1
