"""Words on pictures, in Pillow's own font: which characters it can draw, how they break into lines."""

from __future__ import annotations

import re
import unicodedata

from PIL import Image, ImageDraw, ImageFont

LEGIBLE = frozenset(map(chr, range(32, 127))) | frozenset("©«°±·»…™")
"""Characters that Pillow's own font can draw."""

SPELLED = {"–": "-", "—": "-", "−": "-", "×": "x", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "’": "'", "ß": "ss"}
"""Characters it cannot, or hardly, draw -> how labels spell them."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def legible(text: str) -> str:
    """The text on one line, in characters the font can draw: accents dropped, some symbols spelled, others as '?'."""
    line = " ".join(text.split())
    known = "".join(c if c in LEGIBLE else unicodedata.normalize("NFKD", SPELLED.get(c, c)) for c in line)
    return "".join(c if c in LEGIBLE else "?" for c in known if not unicodedata.combining(c))


def wrap(text: str, font: Font, width: int, limit: int) -> list[str]:
    """The text in at most `limit` lines at most `width` pixels wide, ended by '…' where some of it is left out."""

    def fits(line: str) -> bool:
        return font.getlength(line.rstrip()) <= width

    lines = [""]
    for piece in re.split(r"(?<=[\s/_-])(?!\d)", legible(text)):
        if lines[-1] and not fits(lines[-1] + piece):
            lines.append("")
        for character in piece:  # a piece wider than a line is broken anywhere
            if lines[-1] and not fits(lines[-1] + character):
                lines.append("")
            lines[-1] += character
    if len(lines) > limit:
        last = lines[limit - 1].rstrip()
        while last and not fits(last + "…"):
            last = last[:-1]
        lines = [*lines[: limit - 1], last + "…"]
    return [line.strip() for line in lines]


def label(lines: list[str], font: Font, size: tuple[int, int]) -> Image.Image:
    """The lines in black, centred on white; what would pass the size is cut off, so that no label reaches another."""
    picture = Image.new("RGB", size, "white")
    centre = (size[0] / 2, size[1] / 2)
    ImageDraw.Draw(picture).multiline_text(centre, "\n".join(lines), "black", font, "mm", align="center")
    return picture
