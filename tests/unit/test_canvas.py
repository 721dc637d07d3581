"""Draw your own alphabet: strokes become images like Omniglot's, and the network names one."""

import pytest
import torch
from PIL import Image, ImageDraw

from mamlpp.errors import InputError
from mamlpp.show import canvas, ready

CROSS = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]
BAR = [[(0.5, 0.1), (0.5, 0.9)]]
RING = [[(0.5, 0.2), (0.8, 0.5), (0.5, 0.8), (0.2, 0.5), (0.5, 0.2)]]
TEE = [[(0.2, 0.2), (0.8, 0.2)], [(0.5, 0.2), (0.5, 0.8)]]
ELL = [[(0.3, 0.2), (0.3, 0.8), (0.7, 0.8)]]


def moved(strokes, shift=0.05, scale=0.6):
    return [[(shift + scale * x, shift + scale * y) for x, y in stroke] for stroke in strokes]


def ink(image):
    rows, columns = (image[0] > 0.3).nonzero().T
    return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()


def test_a_drawing_becomes_an_image_of_omniglots_kind():
    image = canvas.render(CROSS)
    assert image.shape == (1, 28, 28)
    assert 0 <= image.min() <= image.max() <= 1
    top, bottom, left, right = ink(image)
    assert 16 <= bottom - top + 1 <= 21  # a median Omniglot character is 18 pixels high or wide
    assert abs((top + bottom) / 2 - 13.5) <= 1
    assert abs((left + right) / 2 - 13.5) <= 1


def test_where_and_how_large_it_was_drawn_does_not_matter():
    assert torch.allclose(canvas.render(CROSS), canvas.render(moved(CROSS)), atol=0.3)
    assert not torch.allclose(canvas.render(CROSS), canvas.render(TEE), atol=0.3)


def test_a_dot_stays_small_and_nothing_is_refused():
    top, bottom, left, right = ink(canvas.render([[(0.5, 0.5)]]))
    assert bottom - top < 4
    assert right - left < 4
    with pytest.raises(InputError, match="nothing drawn"):
        canvas.render([])


def test_the_pads_still_to_be_drawn_are_named():
    alphabet = canvas.Alphabet()
    alphabet.pads.drawings = [CROSS, BAR, [], TEE, ELL, []]
    alphabet.button.click()
    assert "still to draw: character C, one of them again" in alphabet._result.value
    assert "You drew nothing" in alphabet.plot().get_suptitle()


@pytest.mark.parametrize("again", range(5))
def test_the_network_names_each_of_five_plain_characters(again):
    drawn = [CROSS, BAR, RING, TEE, ELL]
    alphabet = canvas.Alphabet()
    alphabet.pads.drawings = [*drawn, moved(drawn[again], scale=0.8)]
    said = alphabet.probabilities(*alphabet.images())
    assert said.shape == (alphabet.learner.recipe.inner_steps + 1, 5)
    assert torch.allclose(said.sum(1), torch.ones(len(said)))
    assert said[-1].argmax() == again
    alphabet.button.click()
    assert f"the network says {canvas.NAMES[again]}" in alphabet._result.value


def scanned(strokes, path):
    sheet = Image.new("L", (200, 260), 235)
    for stroke in strokes:
        points = [(30 + 140 * x, 30 + 200 * y) for x, y in stroke]
        ImageDraw.Draw(sheet).line(points, fill=40, width=7)
    path.parent.mkdir(exist_ok=True)
    sheet.save(path)


def test_the_network_names_a_scan(tmp_path):
    for name, strokes in zip("abcde", (CROSS, BAR, RING, TEE, ELL), strict=True):
        scanned(strokes, tmp_path / name / "1.png")
    with pytest.raises(InputError, match="and a second one in one of them"):
        canvas.scans(tmp_path)
    scanned(moved(TEE), tmp_path / "d" / "2.png")
    support, query = canvas.scans(tmp_path)
    assert (support.shape, query.shape) == ((5, 1, 28, 28), (1, 1, 28, 28))
    top, bottom, *_ = ink(support[1])
    assert 16 <= bottom - top + 1 <= 20
    assert "the network says D" in canvas.Alphabet().plot((support, query)).get_suptitle()


# The weights


def test_the_ready_learner_is_small_and_says_how_it_was_made():
    assert ready.WEIGHTS.stat().st_size < 1e6
    learner, made_by = ready.ready_learner()
    assert (learner.ways, learner.image_shape) == (5, (1, 28, 28))
    assert "meta-steps on " in made_by


def test_a_learner_is_read_as_it_was_written(tmp_path):
    learner, _ = ready.ready_learner()
    ready.write_ready_learner(learner, "by a test", tmp_path / "a.safetensors")
    again, made_by = ready.ready_learner(tmp_path / "a.safetensors")
    assert made_by == "by a test"
    assert again.recipe == learner.recipe
    for name, tensor in learner.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
