"""HTML and SVG as trees. All text is escaped when the tree is written; none is ever pasted in."""

from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element with text and elements in it; None is left out.

    Attributes are named as in Python: `class_` for class, `stroke_width` for stroke-width. One that
    is None is left out.
    """
    node = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            node.set(name.rstrip("_").replace("_", "-"), str(value))
    return extend(node, children)


def extend(node: Element, children: Iterable[Child]) -> Element:
    """`node` with more in it, at its end."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            node.append(child)
        elif len(node):
            node[-1].tail = (node[-1].tail or "") + child
        else:
            node.text = (node.text or "") + child
    return node


def document(root: Element) -> str:
    """A whole HTML page."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], class_: str = "") -> Element:
    """A table whose first column names its rows."""
    return element(
        "div",
        element(
            "table",
            element("thead", extend(Element("tr"), (_cell("th", c, "col") for c in head))),
            extend(Element("tbody"), (_row(row) for row in rows)),
            class_=class_ or None,
        ),
        class_="wide",
    )


def _row(cells: Iterable[Child]) -> Element:
    first, *others = cells
    return extend(
        Element("tr"), [_cell("th", first, "row"), *(_cell("td", cell) for cell in others)]
    )


def _cell(tag: str, content: Child, scope: str | None = None) -> Element:
    return element(tag, content, scope=scope)
