"""The pictures of a slider's stops."""

from __future__ import annotations

import base64
import io

import ipywidgets
import matplotlib.pyplot as plt
import PIL.Image
import pytest
from ipywidgets import Checkbox, Dropdown, FloatSlider, IntSlider, SelectionSlider

from segleak_utils.figures import frames, styled, widgets
from segleak_utils.running import execution, pages


@styled
def bar(height: float = 1, width: float = 1):
    figure, axes = plt.subplots(figsize=(2, 1.5))
    axes.bar([0], [height], width)
    return figure


def box(height=None, width=None, **told):
    controls = {
        "height": height or IntSlider(3, 1, 5, description="how high"),
        "width": width or SelectionSlider(options=[("thin", 0.5), ("thick", 1)], value=0.5),
    }
    return widgets.explorer(bar, controls, **told)


def test_every_stop_has_its_picture_its_words_and_what_is_said():
    found = frames.frames(
        box(
            says=lambda height, width: f"{height} by {width}",
            questions=[("High?", lambda height, width: "yes" if height == 5 else "")],
        )
    )
    assert [c["stops"] for c in found["controls"]] == [list("12345"), ["thin", "thick"]]
    assert [(c["name"], c["label"]) for c in found["controls"]] == [
        ("height", "how high"),
        ("width", "width"),
    ]
    assert [c["start"] for c in found["controls"]] == [2, 0]
    assert len(found["pictures"]) == len(found["frames"]) == 10
    assert found["questions"] == ["High?"]
    last = found["frames"][-1]
    assert last["stops"] == [4, 1] and last["says"] == "5 by 1" and last["answers"] == ["yes"]
    shown = found["pictures"][last["picture"]]
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(shown["webp"])))
    assert picture.format == "WEBP" and list(picture.size) == found["size"]
    assert "0 5" in shown["alt"] and shown["alt"] == widgets.png(bar(5, 1)).alt


def test_what_is_off_has_no_pictures_of_its_own_and_controls_stay_where_they_were():
    explored = box()

    def follow(height, width):
        explored.controls["width"].disabled = height != 3

    explored.asks = explored.asks._replace(follow=follow)
    found = frames.frames(explored)
    assert len(found["frames"]) == 10 and len(found["pictures"]) == 6
    assert [frame["off"] for frame in found["frames"]].count(["width"]) == 8
    assert explored.controls["width"].disabled is False and explored.controls["height"].value == 3


@pytest.mark.parametrize("most", [2, 5, 9, 40])
def test_too_many_stops_are_thinned_and_the_present_one_stays(most):
    found = frames.frames(box(FloatSlider(0.77, min=0.5, max=0.99, step=0.01)), most=most)
    high = found["controls"][0]  # the last control is thinned first, and may be left out
    assert most / 2.5 < len(found["pictures"]) <= most
    assert high["stops"][high["start"]] == "0.77" and high["stops"][-1] == "0.99"
    assert most < 9 or high["stops"][0] == "0.50"
    assert all(len(frame["stops"]) == len(found["controls"]) for frame in found["frames"])
    assert [c["name"] for c in found["controls"]] == ["height"]


def test_many_bytes_are_fewer_pictures():
    n = len(frames._packed(box().drawn))
    assert len(frames.frames(box(), n_bytes=6 * n)["pictures"]) == 5


@pytest.mark.parametrize("most", [2, 5, 9])
def test_stops_at_which_a_question_is_answered_stay(most):
    asked = [
        ("Higher?", lambda height, width: "so high" if height == 22 else ""),
        ("Thick?", lambda height, width: "yes" if (height, width) == (1, 1) else ""),
        ("Ever?", lambda height, width: ""),
    ]
    found = frames.frames(box(IntSlider(7, 1, 40), questions=asked), most=most)
    high, wide = found["controls"]
    assert {"1", "7", "22"} <= {*high["stops"]} and wide["stops"] == ["thin", "thick"]
    answered = [any(frame["answers"][k] for frame in found["frames"]) for k in range(3)]
    assert answered == [True, True, False]
    # more than were wanted where questions need them, and no others
    assert len(found["pictures"]) <= max(most, 6)


def test_stops_in_words():
    assert frames.stops_of(Checkbox()) == [("no", False), ("yes", True)]
    assert frames.stops_of(Dropdown(options={"a": 1, "b": 2})) == [("a", 1), ("b", 2)]
    log = ipywidgets.FloatLogSlider(1, min=-1, max=1, step=1)
    assert [value for _, value in frames.stops_of(log)] == pytest.approx([0.1, 1, 10])
    with pytest.raises(ValueError, match="a Text has no stops"):
        frames.stops_of(ipywidgets.Text())


def test_a_picture_without_words_is_refused():
    with pytest.raises(ValueError, match="render gave a bytes; expected a Figure, or a Png"):
        widgets.explorer(lambda height: b"png", {"height": IntSlider()})


def test_frames_come_where_pages_are_wanted_only(monkeypatch):
    shown, scripts = {}, []

    def display(data, **how):
        return shown.update(data) if how else scripts.append(data)

    monkeypatch.setattr(widgets, "display", display)
    widgets.show(box())
    assert pages.FRAMES not in shown
    assert "aria-label" in scripts.pop().data  # names for who hears the page, where it is live
    monkeypatch.setenv(execution.FRAMES, "1")
    widgets.show(box())
    assert not scripts
    assert len(shown[pages.FRAMES]["pictures"]) == 10
    assert (frames.MIME, frames.WANTED) == (pages.FRAMES, execution.FRAMES)
