"""What was told, drawn on a frame beside what is true: boxes, masks, bars of probabilities.

Truth is cyan, what was told is yellow: both stand out on tissue, and from each other for people who
tell red and green apart badly.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from endofm.report.views import Image

TRUE, TOLD = (0, 229, 255), (255, 214, 0)
INK, SOFT, PAPER = (28, 33, 38), (150, 158, 166), (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
FILL = 0.28
"""How much of a told mask's colour covers the frame."""

Boxes = npt.NDArray[np.floating]


def fitted(frame: Image, side: int) -> Image:
    """A frame scaled to fit a square, on black: uint8 [side, side, 3]."""
    scale, (top, left), (height, width) = _place(frame.shape[:2], side)
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = np.zeros((side, side, 3), np.uint8)
    picture[top : top + height, left : left + width] = cv2.resize(
        frame, (width, height), interpolation=kind
    )
    return picture


def draw_boxes(
    frame: Image,
    side: int,
    true: Boxes,
    told: Boxes,
    scores: npt.NDArray[np.floating],
    names: Sequence[str] = (),
) -> Image:
    """A frame in a square with true boxes (double line) and told ones with name and score."""
    picture = fitted(frame, side)
    scale, (top, left), _ = _place(frame.shape[:2], side)

    def corners(box: npt.NDArray[np.floating]) -> tuple[int, int, int, int]:
        x1, y1, x2, y2 = (float(value) * scale for value in box)
        return round(x1 + left), round(y1 + top), round(x2 + left) - 1, round(y2 + top) - 1

    for box in true:
        x1, y1, x2, y2 = corners(box)
        cv2.rectangle(picture, (x1 - 1, y1 - 1), (x2 + 1, y2 + 1), INK, 4, cv2.LINE_AA)
        cv2.rectangle(picture, (x1, y1), (x2, y2), TRUE, 2, cv2.LINE_AA)
    order = np.argsort(scores, kind="stable")
    for number in order:
        x1, y1, x2, y2 = corners(told[number])
        cv2.rectangle(picture, (x1, y1), (x2, y2), TOLD, 2, cv2.LINE_AA)
        name = f"{names[number]} " if len(names) else ""
        _tag(picture, f"{name}{scores[number]:.2f}", (x1, y1), TOLD)
    return picture


def draw_mask(
    frame: Image, side: int, true: npt.NDArray[np.integer], told: npt.NDArray[np.integer]
) -> Image:
    """A frame in a square with the outline of the true mask, and the told one tinted and outlined.

    Masks [H, W] are of the frame's size; every class but 0 is drawn alike, 255 as nothing.
    """
    picture = fitted(frame, side)
    _, (top, left), (height, width) = _place(frame.shape[:2], side)
    shape = []
    for mask in (told, true):
        filled = np.zeros((side, side), np.uint8)
        is_class = ((mask > 0) & (mask != 255)).astype(np.uint8)
        small = cv2.resize(is_class, (width, height), interpolation=cv2.INTER_NEAREST)
        filled[top : top + height, left : left + width] = small
        shape.append(filled)
    inside = shape[0].astype(bool)
    tinted = (1 - FILL) * picture[inside] + FILL * np.array(TOLD)
    picture[inside] = tinted.round().astype(np.uint8)
    for filled, color in zip(shape, (TOLD, TRUE), strict=True):
        outlines, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, color, 2, cv2.LINE_AA)
    return picture


def draw_classes(
    frame: Image,
    side: int,
    names: Sequence[str],
    probabilities: Sequence[float],
    truth: Sequence[int],
    most: int = 5,
) -> Image:
    """A frame in a square, below it a bar for each of the most probable classes and the true ones.

    [side + bars, side, 3]; the bars of true classes are cyan, the others yellow.
    """
    order = sorted(range(len(names)), key=lambda number: -probabilities[number])
    shown = order[:most]
    shown += [number for number in truth if number not in shown]
    rows = max(min(most, len(names)), len(shown))
    height = 26
    panel = np.full((rows * height + 8, side, 3), 255, np.uint8)
    for place, number in enumerate(shown):
        top = 6 + place * height
        color = TRUE if number in truth else TOLD
        length = round((side - 12) * probabilities[number])
        cv2.rectangle(panel, (6, top), (side - 7, top + 20), (238, 240, 242), -1)
        if length:
            cv2.rectangle(panel, (6, top), (5 + length, top + 20), color, -1)
        value = f"{probabilities[number]:.2f}"
        name = shortened(names[number], side - 90, 0.45)
        cv2.putText(panel, name, (12, top + 15), FONT, 0.45, INK, 1, cv2.LINE_AA)
        cv2.putText(panel, value, (side - 46, top + 15), FONT, 0.45, INK, 1, cv2.LINE_AA)
    return np.concatenate([fitted(frame, side), panel])


def titled(picture: Image, title: str, note: str = "") -> Image:
    """A picture under two lines of text: uint8 [48 + H, W, 3]."""
    width = picture.shape[1]
    head = np.full((48, width, 3), 255, np.uint8)
    for text, at, ink in ((title, 18, INK), (note, 38, (92, 102, 112))):
        line = shortened(text, width - 8, 0.45)
        cv2.putText(head, line, (4, at), FONT, 0.45, ink, 1, cv2.LINE_AA)
    return np.concatenate([head, picture])


def legend(width: int) -> Image:
    """A line that tells the two colours: uint8 [28, width, 3]."""
    line = np.full((28, width, 3), 255, np.uint8)
    at = 6
    for name, color in (("true", TRUE), ("told", TOLD)):
        cv2.rectangle(line, (at, 8), (at + 22, 20), color, -1)
        cv2.rectangle(line, (at, 8), (at + 22, 20), SOFT, 1)
        cv2.putText(line, name, (at + 30, 19), FONT, 0.45, INK, 1, cv2.LINE_AA)
        at += 90
    return line


def grid(pictures: Sequence[Image], columns: int, gap: int = 10) -> Image:
    """Pictures of one width in rows, on white, each row as high as its highest."""
    width = pictures[0].shape[1]
    rows = []
    for start in range(0, len(pictures), columns):
        row = pictures[start : start + columns]
        height = max(picture.shape[0] for picture in row)
        line = np.full((height + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
        for place, picture in enumerate(row):
            left = gap + place * (width + gap)
            line[: picture.shape[0], left : left + width] = picture
        rows.append(line)
    return np.concatenate(rows)


def shortened(text: str, width: int, size: float) -> str:
    """Text that fits a number of pixels; its middle gives way, since names differ at their ends."""
    plain = text.encode("ascii", "replace").decode()

    def fits(words: str) -> bool:
        return bool(cv2.getTextSize(words, FONT, size, 1)[0][0] <= width)

    if fits(plain):
        return plain
    for kept in range(len(plain) - 1, 1, -1):
        words = plain[: kept // 2] + "..." + plain[len(plain) - (kept - kept // 2) :]
        if fits(words):
            return words
    return plain[:1]


def _tag(picture: Image, text: str, corner: tuple[int, int], color: tuple[int, int, int]) -> None:
    """Text on a plate above a box's corner, or inside it at the frame's top."""
    plain = text.encode("ascii", "replace").decode()
    (width, height), _ = cv2.getTextSize(plain, FONT, 0.42, 1)
    x = int(np.clip(corner[0], 0, max(picture.shape[1] - width - 6, 0)))
    y = corner[1] - height - 6 if corner[1] > height + 6 else corner[1] + 1
    cv2.rectangle(picture, (x, y), (x + width + 6, y + height + 6), color, -1)
    cv2.putText(picture, plain, (x + 3, y + height + 2), FONT, 0.42, INK, 1, cv2.LINE_AA)


def _place(size: tuple[int, int], side: int) -> tuple[float, tuple[int, int], tuple[int, int]]:
    """Scale, upper left corner and size (height, width) of a frame fitted into a square."""
    scale = side / max(size)
    height, width = (min(max(round(length * scale), 1), side) for length in size)
    return scale, ((side - height) // 2, (side - width) // 2), (height, width)
