"""Drawings that look as matplotlib's do and are half as long.

Matplotlib names every part, repeats a style at every mark, and gives each position from the corner of the figure. Here
only what is referred to has a name, styles are classes, and a path goes on from where it is.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count
from string import ascii_lowercase as LETTERS
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from PIL import Image

SVG, LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
PNG = "data:image/png;base64,"
REFERENCE = re.compile(r"#([\w-]+)")
TRANSLATION = re.compile(r"translate\(([^ ,)]+)[ ,]+([^ ,)]+)\)")
#: A path with more characters is a curve, drawn to a tenth of a point; others are small marks, or characters.
CURVE = 400


def light(drawing: str) -> str:
    """A drawing in SVG, written shorter."""
    root = ElementTree.fromstring(drawing)
    for node in root.iter():
        node.tag, node.text, node.tail = node.tag.removeprefix(f"{{{SVG}}}"), (node.text or "").strip(), None
        if LINK in node.attrib:
            node.set("href", node.attrib.pop(LINK))
    _flatten(root)
    for node in root.iter():
        if node.tag == "image":
            node.set("href", _pixels(node.get("href", "")))
        if path := node.get("d"):
            node.set("d", short(path))
        _place(node)
    _name(root)
    _classify(root)
    root.attrib = {"xmlns": SVG, **{key: root.attrib[key] for key in ("width", "height", "viewBox")}}
    return ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")


def short(path: str) -> str:
    """A path with steps in the place of positions, without separators that it does not need."""
    scale = 10 if len(path) > CURVE else 100
    here, start, last, found = (0, 0), (0, 0), "", []
    for command, numbers in re.findall(r"([MLQCHVz])([^MLQCHVz]*)", path):
        at = [round(scale * float(x)) for x in numbers.split()]
        if command == "z":
            found.append("z")
            here, last = start, "z"
            continue
        points = {"H": [(at[0], here[1])], "V": [(here[0], at[0])]}[command] if command in "HV" else _pairs(at)
        steps = [b - a for point in points for a, b in zip(here, point, strict=True)]
        letter = "l" if command in "HV" else command.lower()
        found.append(_join(steps, scale, "" if letter == last else letter))
        here, last = points[-1], "l" if command == "M" else letter
        start = here if command == "M" else start
    return "".join(found)


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _join(steps: list[int], scale: int, letter: str) -> str:
    """Numbers behind a letter, or behind other numbers."""
    text = letter
    for i, step in enumerate(steps):
        number = _decimal(step / scale)
        text += ("" if number.startswith("-") or (letter and not i) else " ") + number
    return text


def _decimal(x: float, digits: int = 2) -> str:
    text = f"{x:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return re.sub(r"^(-?)0\.", r"\1.", text) if text != "-0" else "0"


def _flatten(node: Element) -> None:
    """Take out groups that only hold something together, and what is empty."""
    children: list[Element] = []
    for child in node:
        if child.tag == "metadata":
            continue
        _flatten(child)
        child.attrib.pop("id", "") if child.tag == "g" else None
        if child.tag == "g" and not child.attrib:
            children += child
        elif child.tag not in ("g", "defs") or len(child):
            children.append(child)
    node[:] = children


def _pixels(address: str) -> str:
    """An embedded picture, compressed as well as it can be without a loss."""
    if not address.startswith(PNG):
        return address
    before = base64.b64decode(address.removeprefix(PNG))
    after = io.BytesIO()
    Image.open(io.BytesIO(before)).save(after, "webp", lossless=True, quality=90, method=4, exact=True)
    if after.tell() >= len(before):
        return address
    return f"data:image/webp;base64,{base64.b64encode(after.getvalue()).decode()}"


def _place(node: Element) -> None:
    """Positions to a hundredth of a point; those of characters, which are drawn to scale, to a tenth of a unit."""
    moved = TRANSLATION.fullmatch(node.get("transform", ""))
    if node.tag == "use" and moved:  # the same, and shorter
        del node.attrib["transform"]
        for key, value in zip("xy", moved.groups(), strict=True):
            if (place := _decimal(float(value), 0)) != "0":
                node.set(key, place)
        return
    for key in ("x", "y", "width", "height"):
        if node.tag != "svg" and key in node.attrib:
            node.set(key, _decimal(float(node.get(key, "0"))))
    if "transform" in node.attrib:
        node.set("transform", TRANSLATION.sub(_translation, node.attrib["transform"]))


def _translation(found: re.Match) -> str:
    x, y = (_decimal(float(x)) for x in found.groups())
    return f"translate({x} {y})"


def _names() -> Iterator[str]:
    """a, b, …, z, a0, b0, …"""
    for i in count():
        yield LETTERS[i % 26] + (str(i // 26 - 1) if i >= 26 else "")


def _name(root: Element) -> None:
    """Short names for what is referred to, no names for the rest."""
    uses = Counter(name for node in root.iter() for value in node.attrib.values() for name in REFERENCE.findall(value))
    there = {node.get("id") for node in root.iter()}
    short = dict(zip((name for name, _ in uses.most_common() if name in there), _names(), strict=False))
    for node in root.iter():
        if (name := node.attrib.pop("id", None)) in short:
            node.set("id", short[name])
        for key, value in node.attrib.items():
            if key in ("href", "clip-path") and not value.startswith("data:"):
                node.set(key, REFERENCE.sub(lambda found: f"#{short.get(found[1], found[1])}", value))


def _classify(root: Element) -> None:
    """Styles that come more than once, as classes."""
    for node in root.iter():
        if style := node.get("style"):
            style = re.sub(r"#(\w)\1(\w)\2(\w)\3\b", r"#\1\2\3", re.sub(r"\s*([:;,])\s*", r"\1", style))
            node.set("style", style.rstrip(";"))
    styles = Counter(node.attrib["style"] for node in root.iter() if "style" in node.attrib)
    classes = dict(zip((style for style, n in styles.most_common() if n > 1), _names(), strict=False))
    for node in root.iter():
        if node.get("style") in classes:
            node.set("class", classes[node.attrib.pop("style")])
    sheet = root.find(".//style")
    if sheet is not None:
        sheet.attrib = {}
        sheet.text = (sheet.text or "") + "".join(f".{name}{{{style}}}" for style, name in classes.items())
