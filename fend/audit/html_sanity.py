"""The sanity block of an HTML report: what failed first, with what to do about it."""

from xml.etree.ElementTree import Element

from fend.audit.markup import element, extend
from fend.audit.report import Report, SanityLine

MARKS = {
    True: ("✓ pass", "passed"),
    False: ("✕ FAIL", "failed"),
    None: ("\N{EN DASH} not tried", "untried"),
}
ORDER = {False: 0, True: 1, None: 2}


def sanity(report: Report) -> Element:
    """All checks: those that failed, those that passed, and those that were not tried."""
    lines = sorted(report.sanity, key=lambda line: ORDER[line.passed])
    return element(
        "section",
        element("h2", "Did the attacks work?"),
        element(
            "p",
            "Checks of the audit itself. A model can look robust because an attack failed on it; "
            "one failed check makes the numbers unreliable. Where attacks are compared, one image "
            "is allowed to chance. Each name opens to what it means.",
            class_="note",
        ),
        extend(element("ul", class_="checks"), (_check(line) for line in lines)),
    )


def tally(report: Report) -> list[str]:
    """Such as "16 passed", "1 failed", "3 not tried"."""
    states = [line.passed for line in report.sanity]
    told = ((True, "passed"), (False, "failed"), (None, "not tried"))
    return [f"{states.count(state)} {word}" for state, word in told]


def _check(line: SanityLine) -> Element:
    mark, state = MARKS[line.passed]
    name = line.name[0].upper() + line.name[1:]
    if line.passed is False:
        parts = [element("strong", name), element("div", element("p", line.text), _advice(line))]
    else:
        parts = [
            element("details", element("summary", name), _advice(line)),
            element("p", line.text),
        ]
    return element("li", element("span", mark, class_=f"mark {state}"), *parts, class_=state)


def _advice(line: SanityLine) -> Element:
    advice = line.advice
    told = (("Fails if", advice.raised_if), ("Means", advice.means), ("Do", advice.do))
    listing = element("dl")
    for term, text in told:
        extend(listing, [element("dt", term), element("dd", text)])
    return listing
