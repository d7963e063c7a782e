"""The pieces of images are handed out grain by grain, whatever is taken of them."""

from collections.abc import Iterator

import numpy as np

from oddlattice.lattice.subareas import parts_of
from oddlattice.predict.pieces import Piece, PiecesInOrder


def pieces(*keys: tuple[str, int]) -> Iterator[Piece]:
    part = parts_of((8, 8), 2)[0]
    for name, grain in keys:
        for _ in range(2):
            yield Piece(name, grain, part, np.zeros((2, 2), np.float32), np.ones((8, 8), np.uint8))


def test_an_image_that_takes_none_of_its_pieces_leaves_the_next_one_its_own() -> None:
    stream = PiecesInOrder(pieces(("a", 1), ("b", 1), ("b", 2), ("d", 1)))
    seen = {}
    for name, grain, taken in (("a", 1, True), ("b", 1, False), ("b", 2, True), ("c", 1, True), ("d", 1, True)):
        handed = stream.of(name, grain)
        seen[name, grain] = [(p.image_id, p.grain) for p in handed] if taken else []
    assert seen == {
        ("a", 1): [("a", 1)] * 2,
        ("b", 1): [],
        ("b", 2): [("b", 2)] * 2,
        ("c", 1): [],
        ("d", 1): [("d", 1)] * 2,
    }
