"""Units of measure and other words behind a number."""

from __future__ import annotations

import re

from rlvr.verifiers.number import parse
from rlvr.verifiers.number.words import NAMES

NUMBER = r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+|\\[dt]?frac\{\d+\}\{\d+\}|\d+/\d+)"
SHORT_UNITS = (
    "mm|cm|dm|km|mg|kg|ml|mL|ft|in|yd|mi|lb|lbs|oz|hr|hrs|min|mins|sec|ms|mph|kph|Hz|kHz|kJ|kW|Pa|kPa|rad|deg|"
    "USD|EUR|GBP|m|g|s|h|l|L|J|N|W|V|K"
)
OTHERWISE = (  # words that make another number or a denial of it
    f"{NAMES}|hundreds|thousands|millions|mio|mn|bn|lakh|crore|tens|dozens?|doz|half|halves|doubled|tripled|halved|grand|pi|point|base|choose|"
    "root|factorial|below|above|negative|wrong|incorrect|maybe|perhaps|and|or|not|nor"
)
NO_UNIT = (
    f"{OTHERWISE}|but|to|from|more|less|plus|minus|times|over|mod|divided|third|thirds|quarter|quarters|squared|cubed|"
    "sqrt|sin|cos|tan|log|exp|inf|infinity|if|with|is"
)
GAP = r"(?:\s|\\[,;:! ]|~|\\q?quad\b)*"
POWER = r"(?:\^\{?-?\d\}?)?"
TEXT = r"\\(?:text|textnormal|textrm|textbf|textit|textsf|mathrm|mathit|mbox|operatorname)\s*\{[^{}]*\}"
# \text{km}, also in several parts: \text{km}/\text{h}, \text{m}\,\text{s}^{-2}, \frac{\text{m}}{\text{s}}
PART = rf"(?:{TEXT}{POWER}|\\[dt]?frac\{{{GAP}{TEXT}{POWER}\}}\{{{GAP}{TEXT}{POWER}\}})"
TEXT_UNIT = re.compile(rf"(?<=\S){GAP}{PART}(?:{GAP}(?:/|\\cdot)?{GAP}{PART})*$")
WORD = rf"(?!(?:{NO_UNIT})\b)[A-Za-z]{{2,}}"
WORDS = rf"(?![A-Za-z]{{2}}(?:\s|$)){WORD}(?:[\s-]{WORD}){{0,3}}"
SHORT = rf"(?:{SHORT_UNITS})(?:\s*/\s*(?:{SHORT_UNITS}))?{POWER}(?:\s+per\s+[A-Za-z]{{2,}})?"
DEGREES = r"\^\s*\{?\s*\\circ\s*\}?\s*[CF]"
# (left over), but not (nine or ten)
REMARK = rf"\(\s*(?!(?:\w+ )*(?:{OTHERWISE})\b)[A-Za-z]{{2,}}(?:[\s-][a-z]{{2,}})*\s*\)"
IN_BRACKETS = rf"\s+(?:\(\s*{SHORT}\s*\)|\[\s*{SHORT}\s*\])"  # 16 (m^2), but not the product 16(m)
UNIT = re.compile(
    rf"({NUMBER})(?:{GAP}{SHORT}|{GAP}{DEGREES}|{IN_BRACKETS}|\s+{WORDS}|{GAP}{REMARK}|(?!\w*(?:{NO_UNIT}))[A-Za-z]{{4,}})"
)
# 2\pi cm and \sqrt{3} metres, but not 2\pi r
BEHIND_CONSTANT = re.compile(
    rf"((?:{NUMBER}\s*)?(?:\\pi|(?:\\sqrt|√)\s*\{{?\d+\}}?))\s+(?=[A-Za-z]{{2}})(?:{SHORT}|{WORDS})"
)
UNIT_OF_VALUE = re.compile(rf"\s(?:[A-Za-z]{{2,}}|[A-Za-z]\s*/\s*[A-Za-z])|{TEXT}")
BEHIND_LETTER = re.compile(rf"([A-Za-z])\s+(?=[A-Za-z]{{2}})(?:{SHORT})")
NAME = re.compile(r"\s*[A-Za-z](?:_\w|_\{\w+\})?\s*")
IN_WORDS = re.compile(rf"({NUMBER})\s*\((?:{NAMES})(?:[ -](?:and |{NAMES}))*\)")
BEHIND_FORMULA = re.compile(rf"\$([^$]+)\$\s*(?:{SHORT}|{WORDS}|{REMARK})")
NO_UNIT_IN_TEXT = re.compile(rf"\b(?:{NO_UNIT})\b")


def without_unit(text: str) -> str:
    r"""`text` without the unit behind its number: 12 cm, 12 (cups), 12\,\text{km}, $12$ litres."""
    name, sign, value = text.rpartition("=")
    if sign and NAME.fullmatch(name) and UNIT_OF_VALUE.search(value):  # x = 12 cm, but not x = 12h
        return f"{name}={without_unit(value.strip())}"
    if behind := BEHIND_FORMULA.fullmatch(text):
        text = behind[1].strip()
    unit = TEXT_UNIT.search(text)
    if unit and not NO_UNIT_IN_TEXT.search(unit[0]):
        text = text[: unit.start()]
    spelled = IN_WORDS.fullmatch(text)
    if spelled and parse(text) is not None:  # 12 (twelve)
        return spelled[1]
    if number := UNIT.fullmatch(text) or BEHIND_CONSTANT.fullmatch(text) or BEHIND_LETTER.fullmatch(text):
        return number[1]
    return text
