"""Rewards for e-mails: keywords, recipient and signature, checked with the answer and the row's columns.

An answer is the text after the answer tag.
"""

from __future__ import annotations

import re
from typing import Any

from rlvr.rewards.functions.prose import LONGEST
from rlvr.rewards.sample import Sample
from rlvr.types import UserError

MIN_DIGITS, MAX_DIGITS = 7, 15  # of a phone number
SIGNATURE_CHARACTERS = 400  # at the end of the answer, searched for a signature block

_TITLES = frozenset({"mr", "mrs", "ms", "miss", "mx", "dr", "prof", "professor", "sir", "madam"})
_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+")
_PHONE = re.compile(r"(?<![\w.])\+?\(?\d[\d ()./-]{5,24}\d(?!\w)")
_YEAR = r"(?:19|20)\d\d"
_DATE = re.compile(
    rf"(?<!\d)(?:\d{{1,2}}([./ -])\d{{1,2}}\1{_YEAR}|{_YEAR}([./ -])\d{{1,2}}\2\d{{1,2}}|{_YEAR} ?[-/] ?{_YEAR}"
    rf"|{_YEAR}[01]\d[0-3]\d)(?!\d)"
)
# Other numbers: 3.14159265, 978-3-16-148410-0, 2026-000123, and what follows `Order`, `Invoice no.` or `#`.
_DECIMAL = re.compile(r"\d+\.\d+")
_WITH_ONE_POINT = re.compile(r"0\d{2,4}\.\d{5,}|\d{3}\.\d{4}")  # 555.0123
_COUNTED = re.compile(rf"97[89][ -]?(?:\d[ -]?){{9}}\d|{_YEAR}[-/]\d{{4,}}|\d{{1,3}}(?:\.\d{{1,3}}){{3}}")
_LABELS = (
    "isbn|issn|doi|iban|vat|id|uid|sku|po|invoice|order|ticket|case|ref|reference|account|acct|customer|client|member"
    "|tracking|article|item|part|product|serial|version|contract|policy|booking|reservation|confirmation|receipt"
    "|transaction|claim|file|document|registration|licen[cs]e|patent|rechnung|bestellung|vorgang|kunden(?:nummer)?"
)
_LABELLED = re.compile(
    rf"(?:\b(?:{_LABELS})s?[ .:-]*(?:(?:no|nr|num|number|nummer|id|code)\b)?[ .:#-]*(?:is )?|#)[ (]*$", re.IGNORECASE
)
LABEL_CHARACTERS = 40  # before a number, searched for what it counts
_MONEY = re.compile(r"[$€£¥]|\b(?:eur|usd|gbp|chf|euro|dollar|pound)")
_STREETS = "street|st|road|rd|avenue|ave|lane|ln|drive|square|boulevard|blvd|court|place|quay|terrace|way"
_STREET = re.compile(
    rf"\b\d{{1,5}}[a-z]?,? (?:[\w.'-]{{1,30}} ){{1,3}}(?:{_STREETS})\b|\w{{2,30}}(?:straße|strasse) \d"
)


def email_keywords(sample: Sample, *, column: str, each: float, complete: float) -> float | None:
    """`each` for every keyword of the row that the answer contains, plus `complete` if it contains all of them.

    `column` holds a list, or text with commas or semicolons between the keywords; None for a row without it. Keywords
    match whole words in any case. Raises UserError for another kind of column. Source: the e-mail rubric of Unsloth's
    GRPO guide, +1.
    """
    keywords = _listed(sample.problem.columns.get(column), column)
    if not keywords:
        return None
    text = _plain((sample.reading.tagged or "")[:LONGEST])
    num_found = sum(_contains(text, _plain(keyword)) for keyword in keywords)
    return num_found * each + (complete if num_found == len(keywords) else 0.0)


def recipient_name(sample: Sample, *, column: str, points: float) -> float | None:
    """`points` if the answer contains the name of the row's recipient (in full, first or last name), else 0.

    `column` holds the name; titles such as Dr. are allowed; None for a row without it. Source: the e-mail rubric of
    Unsloth's GRPO guide, +1.
    """
    full = _plain(str(sample.problem.columns.get(column) or ""))
    if not full:
        return None
    text = _plain((sample.reading.tagged or "")[:LONGEST])
    words = [word for word in full.split() if word.rstrip(".") not in _TITLES]
    return points if any(_contains(text, wanted) for wanted in {full, *words[:1], *words[-1:]}) else 0.0


def signature_block(sample: Sample, *, points: float) -> float:
    """`points` if the last 400 characters of the answer contain a phone number, e-mail address or street address.

    Dates, spans of years, amounts of money, decimals, and the numbers of orders, invoices and books are no phone
    numbers.
    Source: the e-mail rubric of Unsloth's GRPO guide, +1.
    """
    end = (sample.reading.tagged or "").rstrip()[-SIGNATURE_CHARACTERS:]
    phones = [match for match in _PHONE.finditer(end) if not _is_another_number(end, match)]
    is_signed = _ADDRESS.search(end) or phones or _STREET.search(end.lower())
    return points if is_signed else 0.0


def _is_another_number(text: str, match: re.Match[str]) -> bool:
    number = match[0].lstrip("(")
    if not number.startswith("+") and (
        (_DECIMAL.fullmatch(number) and not _WITH_ONE_POINT.fullmatch(number))
        or _COUNTED.fullmatch(number)
        or _LABELLED.search(text[max(0, match.start() - LABEL_CHARACTERS) : match.start()])
    ):
        return True
    digits = sum(character.isdigit() for character in _DATE.sub("", match[0]))
    around = text[max(0, match.start() - 2) : match.start()] + text[match.end() : match.end() + 5]
    return not MIN_DIGITS <= digits <= MAX_DIGITS or _MONEY.search(around.lower()) is not None


def _listed(value: Any, column: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        value = value.split(";" if ";" in value else ",")
    if not isinstance(value, list):
        raise UserError(f"column {column!r} must hold a list of keywords or text with commas between, found {value!r}")
    return [str(keyword) for keyword in value if str(keyword).strip()]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _contains(text: str, wanted: str) -> bool:
    """Whether `text` contains `wanted` with no letter or digit right before or after."""
    at = text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        if not text[at - 1 : at].isalnum() and not text[end : end + 1].isalnum():
            return True
        at = text.find(wanted, at + 1)
    return False
