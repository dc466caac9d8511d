"""Prompts of a wanted length, and images."""

import base64
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.calibrate.engine.words import Words


@given(per_word=st.floats(0.8, 2.5), template=st.integers(0, 60), wanted=st.integers(100, 9000))
def test_two_lengths_teach_words_and_template(per_word: float, template: int, wanted: int) -> None:
    words = Words(1)
    for count in (20, 200, 800):
        words.learn(count, round(template + per_word * count))
    text = words.text(wanted)
    tokens = template + per_word * len(text.split())
    assert tokens == pytest.approx(wanted, abs=0.02 * wanted + 3)


def test_texts_differ_from_their_first_words_on() -> None:
    words = Words(1)
    starts = {" ".join(words.text(60).split()[:6]) for _ in range(200)}
    assert len(starts) == 200


def test_an_image_is_a_png_of_its_size() -> None:
    words = Words(1)
    one, other = words.image(32), words.image(32)
    assert one != other
    data = base64.b64decode(one.removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (32, 32)
    length = struct.unpack(">I", data[33:37])[0]
    assert len(zlib.decompress(data[41 : 41 + length])) == 32 * (32 * 3 + 1)
