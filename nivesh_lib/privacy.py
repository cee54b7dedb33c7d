"""Find personal data in a query and replace it with tags such as ``[PHONE]``.

Patterns run on a folded copy of the text, the view: HTML entities are decoded, digits of every
script become 0-9, Cyrillic and Greek letters that look like Latin ones become these, spaces,
dashes and dots of every kind their ASCII forms, invisible characters are removed. Where they find
nothing, they run once more with the letters O, o, l and I in numbers read as digits. An index maps
each match back to the text, whose other parts stay unchanged.

A false positive is preferred to a leak, except for numbers of the same shape that are common in
finance queries: amounts, ranges, years, pincodes, reference and folio numbers.

Sources: UIDAI (Aadhaar: 12 digits, first 2-9, check digit of Verhoeff 1969);
ISO/IEC 7812-1 annex B (cards, Luhn); Income Tax Department (PAN: fourth letter is
the holder type); GSTN (GSTIN: state, PAN, entity, letter, mod-36 check character);
RBI (IFSC: bank, 0, branch); NPCI (UPI address: name@handle, no dot);
Department of Telecommunications (landline: 0, area code of 2-4 digits, 10 digits in all);
Unicode Technical Standard 39 (look-alike letters).
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("GSTIN", "UPI", "EMAIL", "PAN", "ACCOUNT", "CARD", "AADHAAR", "IFSC", "PHONE")


@dataclass(frozen=True)
class Finding:
    """The place of personal data: ``text[start:end]``. It never holds the value."""

    kind: str
    start: int
    end: int


# --- the view -----------------------------------------------------------------

_TAG = re.compile(rf"\[(?:{'|'.join(KINDS)})\]")
_HIDDEN = "\x00"  # stands for a tag; controls are dropped, so no text can contain it
_LINE_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_BLANKS = frozenset("\u3164\uffa0\u115f\u1160\u2800")
_DASHES = frozenset("−˗⁃")
_DOTS = frozenset("·•․‧∙⋅。｡")
_INVISIBLE = frozenset({"Cf", "Cc", "Me"})
_SELECTOR = re.compile(r"[\u034f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_LOOK_ALIKES = {
    strange: plain
    for alike, latin in (
        ("АВСЕҒԌНІЈКМОРԚЅТԜХУѴԀ", "ABCEFGHIJKMOPQSTWXYVD"),  # Cyrillic
        ("ΑΒϹΕϜΗΙͿΚΜΝΟΡΤΥΧΖ", "ABCEFHIJKMNOPTYXZ"),  # Greek
    )
    for upper, letter in zip(alike, latin, strict=True)
    for strange, plain in ((upper, letter), (upper.lower(), letter.lower()))
} | {"ӏ": "l", "Ӏ": "I"}
_ENTITY = re.compile(r"&(?:amp;)*+(#\d{1,9};?|#x[0-9a-f]{1,8};?|[a-z]{2,31};)", re.I)


@lru_cache(maxsize=4096)  # of single characters, so that nothing of a text is kept
def _fold(char: str) -> str:
    """Return the plain form of one character, or nothing for an invisible one."""
    digit = unicodedata.digit(char, None)
    category = unicodedata.category(char)
    if digit is not None:
        return str(digit)
    if char in _LINE_BREAKS:
        return "\n"
    if char.isspace() or char in _BLANKS:
        return " "
    if category == "Pd" or char in _DASHES:
        return "-"
    if char in _DOTS:
        return "."
    if category in _INVISIBLE or _is_mark(char) or _SELECTOR.match(char):
        return ""
    plain = "".join(c for c in unicodedata.normalize("NFKC", char) if not _is_mark(c))
    plain = plain if len(plain) == 1 else char  # one to one keeps the map simple
    return _LOOK_ALIKES.get(plain, plain)


def _is_mark(char: str) -> bool:
    return unicodedata.combining(char) not in (0, 9)  # 9 is the virama, part of the spelling


def _decoded(text: str) -> tuple[str, Sequence[int]]:
    """Return the text with each HTML entity as its character, and where each character starts.

    The starts end with the length of ``text``, so that they are ends as well.
    """
    pieces: list[str] = []
    starts: list[int] = []
    at = 0
    for entity in _ENTITY.finditer(text):
        char = html.unescape(f"&{entity[1]}")
        if len(char) == 1:
            pieces += [text[at : entity.start()], char]
            starts += range(at, entity.start() + 1)
            at = entity.end()
    return "".join(pieces) + text[at:], [*starts, *range(at, len(text) + 1)]


def _view(text: str) -> tuple[str, Sequence[int]]:
    """Return the folded text, and for each of its characters the index in ``text``."""
    if text.isascii() and text.isprintable():  # each character is its own plain form
        return text, range(len(text))
    folds = {char: _fold(char) for char in set(text)}
    view = "".join([folds[char] for char in text])
    if len(view) == len(text):
        return view, range(len(text))
    return view, [index for index, char in enumerate(text) if folds[char]]


def _hide(
    view: str, index: Sequence[int], spans: Iterable[tuple[int, int]]
) -> tuple[str, Sequence[int]]:
    """Replace each span by one opaque character, as is done with a tag in the text."""
    texts: list[str] = []
    indexes: list[int] = []
    at = 0
    for start, end in spans:
        texts += [view[at:start], _HIDDEN]
        indexes += [*index[at:start], index[start]]
        at = end
    return "".join(texts) + view[at:], [*indexes, *index[at:]]


_MIXED = re.compile(r"\d(?:(?=[OolI])|(?<=[OolI]\d))")  # starts with the rarer of the two
_LETTERED = re.compile(  # a number, or the number in a PAN or IFSC, in part written in letters
    # 50l is an amount, unless other groups make it a part of a number
    r"(?<![^\W_])(?!(?<!\d{3}[ \n._/-])\d{1,3}l"
    r"(?![^\W_]|[ \n._/-][\dOolI]{3,4}[ \n._/-][\dOolI]{4}))(?=[OolI]*\d)[\dOolI]{2,}(?![^\W_])"
    r"|(?<=[a-zA-Z]{5})(?<![a-zA-Z]{6})(?=[OolI]{0,2}\d[OolI]{0,2}\d)[\dOolI]{4}"
    r"(?=[a-zA-Z](?:[^\W_]{3})?(?![^\W_]))"
    r"|(?<=[a-zA-Z]{4})(?<![a-zA-Z]{5})[Oo0](?=(?:[OolI]*\d){3})[\dOolI]{6}(?![^\W_])"
)
_AS_DIGITS = str.maketrans("OolI", "0011")


def _with_digits(view: str) -> str:
    """Return the view with letters in numbers read as the digits that they look like."""
    if not _MIXED.search(view):
        return view
    return _LETTERED.sub(lambda number: number[0].translate(_AS_DIGITS), view)


# --- check digits -------------------------------------------------------------

# The dihedral group D5, and the powers of the permutation (1 5 8 9 4 2 7 0)(3 6).
_VERHOEFF_D = (
    *("0123456789", "1234067895", "2340178956", "3401289567", "4012395678"),
    *("5987604321", "6598710432", "7659821043", "8765932104", "9876543210"),
)
_VERHOEFF_P = (
    *("0123456789", "1576283094", "5803796142", "8916043527"),
    *("9453126870", "4286573901", "2793806415", "7046913258"),
)
_BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _verhoeff(digits: str) -> bool:
    state = 0
    for position, digit in enumerate(reversed(digits)):
        state = int(_VERHOEFF_D[state][int(_VERHOEFF_P[position % 8][int(digit)])])
    return state == 0


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0


def _gstin_check(first14: str) -> str:
    """Return the check character of a GSTIN's first fourteen characters."""
    total = 0
    for position, char in enumerate(first14):
        total += sum(divmod(_BASE36.index(char) * (1 + position % 2), 36))
    return _BASE36[-total % 36]


# --- words around a number ----------------------------------------------------

_START = r"(?<![^\W\d_])"  # no letter before
_END = r"(?![^\W\d_])"  # no letter after
_WHOLE = r"(?![^\W_])"  # neither letter nor digit after
_LINK = (  # what may stand between a word and its number
    r"(?:[\s:;.,#=()*'\"/-]|numbers?|num|nos?|ids?|is|was|of|the|my|cards?|code|ref(?:erence)?"
    r"|ka|ki|ke|ko|me(?:in|ra|ri)|hai|yeh?|wala|नंबर|संख्या|कार्ड|मेरा|का|है)*+"
)
_MONEY_BEFORE = re.compile(
    rf"(?:[₹₨$€£]|रु|रू|रुप[एय]े?|{_START}(?:rs|re|inr|usd|rupees?|rupa[iy]+[ae]?|ra[kq]am|amount|amt"
    rf"|worth|sum)){_LINK}$",
    re.I,
)
_MONEY_AFTER = re.compile(
    rf"(?:/-|\s?(?:rs|inr|rupees?|rupa[iy]+[ae]?|lakhs?|lacs?|crores?|cr|रुप[एय]े?|लाख|करोड){_END}"
    r"(?!\.?\s?\d))",  # "9876543210 Rs 500": that amount is another number's
    re.I,
)
_PAISE = re.compile(r"\.\d{1,2}(?!\d)")
_ACCOUNT_NAME = r"(?:a/c|accounts?|acc?t|acc|ac ?(?=no|num|#|:)|khaa?t[ae])"
_ACCOUNT_AFTER = re.compile(
    rf"[\s,-]{{1,3}}(?:(?:is|mera|meri|my|the|hai|bank|savings?|current) ){{0,4}}"
    rf"{_ACCOUNT_NAME} ?(?:no|num)",
    re.I,
)
_LABEL = re.compile(
    rf"(?P<ACCOUNT>{_START}{_ACCOUNT_NAME}(?:{_END}|(?=no|num))|खात[ाे]|अकाउंट)"
    rf"|(?P<PHONE>{_START}(?:(?:tele)?phone|mobile|mob|call|whats ?app|contact|cell|sms|landline"
    rf"|(?:my|mer[ae]) n(?:umber|o)){_END}|फोन|मोबाइल)"
    rf"|(?P<OTHER>{_START}(?:utr|rrn|ref(?:erence)?|txn|folio|policy|aa?dhaa?r|uid){_END})",
    re.I,
)
_NEAR = 40
_FIGURE_BEFORE = re.compile(  # two figures with a break between them, such as quotes or prices
    rf"{_START}(?:emis?|sips?|salar(?:y|ies)|ctc|incomes?|premiums?|quotes?|prices?|bhav|daam|rents?"
    r"|gold|silver|sensex|nifty|bank ?nifty|navs?|units?|shares?|expenses?|spent|kharch[ae]?|bills?"
    r"|fees?|charges?|costs?|rates?|balances?|dues?|interest|tax|tds|gst|debits?|credits?|goals?"
    rf"|budgets?|invest\w*|paid|pay|total|limits?|pin ?codes?|code|loan|target|sl){_END}[^\d]*$",
    re.I,
)
_SERIAL_BEFORE = re.compile(  # what has a serial number of the shape of a landline's
    rf"{_START}(?:polic(?:y|ies)|che(?:que|ck)|chq|receipt|voucher|ticket|application|applicn|challan"
    r"|customer|client|consumer|member|invoice|bill|order|loan|folio|ref(?:erence)?|request|complaint"
    r"|certificate|registration|licen[cs]e|crn|cif|micr|uan|pf|ppo|serial|token|case|demat|a/c|acct?"
    rf"|account|utr|rrn|te?xn|trxn|transaction){_END}{_LINK}$",
    re.I,
)


def _labels(view: str, start: int) -> list[str | None]:
    """Return the kinds of the label words in the characters before ``start``, the nearest last."""
    words = _LABEL.finditer(view, max(0, start - _NEAR), start)
    return [word.lastgroup for word in words]


def _is_money(view: str, start: int, end: int) -> bool:
    before = view[max(0, start - _NEAR) : start]
    return bool(_MONEY_BEFORE.search(before) or _MONEY_AFTER.match(view, end))


_ROUND = {1: 10, 2: 5, 3: 50}  # longer amounts are round at 500; 10 is never reached


def _is_list(number: str) -> bool:
    """Whether the groups are round amounts, a range of them, or successive years."""
    groups = re.findall(r"\d+", number)
    if len(groups) < 2 or any(group[0] == "0" for group in groups):
        return False
    values = [int(group) for group in groups]
    if 1900 <= values[0] <= 2099 and values == list(range(values[0], values[0] + len(values))):
        return True
    if len(values) == 2:  # a slab such as 60001-79999
        values[0] -= values[0] % 10 == 1
        values[1] += values[1] % 10 == 9
    steps = [_ROUND.get(len(group), 500) for group in groups]
    return not any(value % step for value, step in zip(values, steps, strict=True))


# --- numbers ------------------------------------------------------------------


def _number(shapes: str, gap: str, first: str, after: str = "") -> re.Pattern[str]:
    """Compile group sizes such as ``"12 4-4-4"``; the lookahead lets matches overlap."""
    forms = (gap.join(rf"\d{{{size}}}" for size in shape.split("-")) for shape in shapes.split())
    return re.compile(rf"(?<!\d)(?={first})(?=({'|'.join(forms)})(?!\d){after})")


def _ones(count: int) -> str:
    return "-".join("1" * count)


def _halves(size: int) -> str:
    return " ".join(f"{left}-{size - left}" for left in range(2, size - 1))


_BREAK = r" ?[\n_]{1,2} ?"  # may come anywhere in a number
_NO_COLUMN = (r"(?<!\d\n)(?<!\d \n)", r"(?! ?\n ?\d)")  # before and after: no list of numbers

_AADHAAR = _number(
    f"12 4-4-4 6-6 4-8 8-4 3-3-3-3 2-2-2-2-2-2 {_ones(12)}",
    r"(?:[ \n._/|:*~-]{1,3}|,)",
    r"(?<!0\.)(?!(?<=\+)91[ .()-]{0,3}0?[6-9])[2-9]",  # that is how a phone number starts
)
_AADHAAR_WORD = re.compile(
    rf"(?:a{{1,2}}dh?a{{1,2}}r|आधार|{_START}uid(?:ai)?){_LINK}"
    r"(\d(?:[ \n._/|:*~-]{0,3}\d){11})(?!\d)",
    re.I,
)
_AADHAAR_BROKEN = _number(_halves(12), _BREAK, _NO_COLUMN[0] + "[2-9]", _NO_COLUMN[1])
_CARD_GAP = r"[ \n._/-]{1,3}"
_CARD = _number(f"13,19 4-4-4-4 4-6-4,5 8-8 {_ones(16)}", _CARD_GAP, r"(?<!0\.)[1-9]")
_CARD_LONG = _number("4-4-4-4-2,3 4-4-4-1,3", _CARD_GAP, "[1-9]")
_CARD_BROKEN = _number(
    f"{_halves(15)} {_halves(16)}", _BREAK, _NO_COLUMN[0] + "[1-9]", _NO_COLUMN[1]
)
_PHONE = _number(f"10 5-5 3-3-4 4-3-3 2-2-2-2-2 {_ones(10)}", "[ ._()-]{1,3}", r"(?<!0\.)[6-9]")
_PHONE_BROKEN = _number(
    f"{_halves(10)} 3-3-4 4-3-3 {_ones(10)}",
    r" ?(?:[\n_]{1,2}|[-/]\n) ?",
    _NO_COLUMN[0] + "[6-9]",
    _NO_COLUMN[1],
)
_PHONE_SLASHES = _number(f"5-5 3-3-4 4-3-3 {_ones(10)}", " ?/ ?", r"(?<!\w/)[6-9]", r"(?! ?/ ?\d)")
_PHONE_PREFIXED = re.compile(
    r"(?<!\d)(?<!0\.)"
    r"((?:\(?\+ ?91|\(?0091|91)\)?[ \n._/()-]{0,3}0?[6-9](?:[ \n._/()-]{0,3}\d){9}|0[ _-]?[6-9]\d\d"
    r"(?:\d\d[ \n._/-]{0,3}\d{5}|(?:[ \n._/-]{1,3}\d{3}){2}\d|\d(?:[ \n._/-]{1,3}\d{3}){2}))"
    r"(?!\d)"
)
_PHONE_LOOSE = re.compile(r"(?<!\d)([6-9](?:[ \n._/()-]{0,3}\d){9})(?!\d)")
_LANDLINE_GAP = r"(?:\)[ \n._/-]{0,3}|[ \n._/-]{1,3})"
_LANDLINE = re.compile(  # 0, area code, gap, number: eleven digits
    r"(?<![\w+])(?<!\d[.,/-])(\(?0"
    rf"(?:(?:11|20|22|33|40|44|79|80){_LANDLINE_GAP}[2-7]\d{{3}}[ .-]?\d{{4}}"
    rf"|[1-8]\d\d{_LANDLINE_GAP}[2-7]\d\d[ .-]?\d\d[ .-]?\d\d"
    rf"|[1-8]\d{{3}}{_LANDLINE_GAP}[2-7]\d(?:[ .-]?\d\d){{2}}"
    rf"|[1-8]\d{{3}}{_LANDLINE_GAP}[2-7]\d\d[ .-]?\d{{3}}))(?!\d|[./-]\d)"
)
_LANDLINE_ABROAD = re.compile(
    r"(?<!\d)(\(?(?:\+ ?91|0091)\)?[ \n._/()-]{0,3}(?:0[ )-]{0,2})?[1-8](?:[ \n._/()-]{0,3}\d){9})"
    r"(?!\d)"
)
_LANDLINE_WHOLE = re.compile(r"(?<![\d.,])(0[1-8]\d{9})(?!\d)")
_ACCOUNT = re.compile(
    r"(?<![\d+])(\d{9,18}(?!\d)|\d(?: ?\d){8,17}|\d(?:-?\d){8,17}|\d(?:/?\d){8,17}"
    r"|\d(?:_?\d){8,17})(?!\d)"
)
_ACCOUNT_BROKEN = re.compile(
    rf"{_START}{_ACCOUNT_NAME}{_LINK}(\d{{2,15}}(?: ?\n{{1,2}} ?\d{{2,15}}){{1,3}})(?!\d)", re.I
)

# --- codes --------------------------------------------------------------------

_PAN = re.compile(r"([A-Z]{3}[ABCFGHJLPT][A-Z])\d{4}[A-Z]", re.I)
_PAN_SPACED = re.compile(
    rf"{_START}([A-Z]{{3}}[ABCFGHJLPT][A-Z])[ \n._/-]{{0,3}}\d{{4}}[ \n._/-]{{0,3}}[A-Z]{_END}",
    re.I,
)
_PAN_LETTERS = re.compile(
    r"(?<!\w)[A-Z](?:[ .-][A-Z]){2}[ .-][ABCFGHJLPT][ .-][A-Z](?:[ .-]\d){4}[ .-][A-Z](?!\w)", re.I
)
_PROSE = re.compile(  # words of the shape of a PAN's head: "total 5000 a month" is no PAN
    "accha|birth|bills|block|calls|check|costs|debts|delhi|earth|eight|empty|equal|fifth|fifty|final"
    "|forty|gifts|goals|gupta|hafta|hefty|karta|karti|lakhs|legal|likha|local|mehta|might|milta"
    "|month|ninth|north|notch|party|plots|right|royal|rural|salah|sasta|singh|sixth|sixty|small"
    "|south|spots|stock|surat|table|tarah|tenth|title|total|units|vital|wants|whole|width|worth"
    "|youth",
    re.I,
)
_GSTIN = re.compile(
    r"(?<!\d)\d{2}[ \n_/-]?[A-Za-z]{5}[ \n_/-]?\d{4}[ \n_/-]?[A-Za-z]"
    r"[ \n_/-]?[1-9A-Za-z][ \n_/-]?[A-Za-z][ \n_/-]?[0-9A-Za-z]"
)
_BANKS = (
    "AIRP|AUBL|BARB|BDBL|BKID|CBIN|CITI|CIUB|CNRB|COSB|CSBK|DBSS|DCBL|DEUT|DLXB|ESFB|FDRL|FINO"
    "|HDFC|HSBC|IBKL|ICIC|IDFB|IDIB|INDB|IOBA|IPOS|JAKA|JSFB|KARB|KKBK|KVBL|MAHB|NKGS|NSPB|PSIB"
    "|PUNB|PYTM|RATN|SBIN|SCBL|SIBL|SRCB|TMBL|UBIN|UCBA|UJVN|UTIB|UTKS|YESB"
)
_WORDS = (
    "BANK|BILL|BOND|CARD|CASE|CASH|CODE|DEBT|FLAT|FORM|FUND|GOLD|HELP|ITEM|LOAN|NOTE|PAGE|PART|PLAN"
    "|PLOT|ROOM|RULE|TEAM|TERM|TEST|UNIT|USER|YEAR"
)
_IFSC = re.compile(  # the lookahead spares most places the long list of banks
    rf"(?=[A-Z]{{4}}[ \n._/-]?0)((?:{_BANKS})[ \n._/-]?0[A-Z0-9]{{6}}){_WHOLE}", re.I
)
_IFSC_WORD = re.compile(rf"ifsc{_LINK}([A-Z]{{4}}[ \n._/-]?0[A-Z0-9]{{6}}){_WHOLE}", re.I)
_IFSC_OTHER = re.compile(  # other banks: in capitals, and mostly digits, as branches are
    rf"(?<![^\W_])(?!{_WORDS})([A-Z]{{4}}0(?=(?:[A-Z]*\d){{3}})[A-Z0-9]{{6}}){_WHOLE}"
)

# Spans that are no personal data, even if their digits match.
_REFERENCE = re.compile(
    rf"{_START}(?:utr|rrn|arn|ref|reference|te?xn|trxn|txnid"
    r"|(?:transaction|order|payment|request|complaint|ticket|ack|acknowledge?ment|policy|upi)"
    r"(?=[\s.:-]{0,3}(?:id|no|num|ref|#))|(?:upi|imps|neft|rtgs)(?:/[cd]r)?(?=[/-]))"
    rf"{_LINK}(\d{{11,22}}(?!\d)|\d{{4}}[ -]\d{{4}}[ -]\d{{4}}(?![ -]?\d)"
    rf"|(?=[A-Z]*\d)[A-Z0-9]{{12,22}}{_WHOLE})",
    re.I,
)
_FOLIO = re.compile(rf"folio{_LINK}(\d[\d/-]*+)", re.I)
_BANK_CODE = re.compile(
    rf"(?<![^\W_])(?=(?:[A-Z0-9]{{16}}|[A-Z0-9]{{22}}){_WHOLE})((?:{_BANKS})[A-Z]?\d+){_WHOLE}"
)

# --- addresses ----------------------------------------------------------------

_CHAR = r"\w\u0900-\u0963\u0966-\u0d7f"  # vowel signs of Indian scripts are not in \w


def _address(rest: str) -> re.Pattern[str]:
    """Compile a name followed by ``rest``; possessive, so long names cost linear time."""
    name = rf"[{_CHAR}][{_CHAR}.+%&-]*+"
    return re.compile(rf"(?<![{_CHAR}.+%&-])[.+%&-]*+({name}(?:{rest}))", re.I)


_MAILER = r"(?:gmail|googlemail|yahoo|ymail|outlook|hotmail|rediff(?:mail)?|icloud|proton(?:mail)?)"
_EMAIL = _address(rf"@(?:[{_CHAR}-]++\.)+[^\W\d_][{_CHAR}]+")
_EMAIL_BARE = _address(rf"@{_MAILER}{_WHOLE}")
_EMAIL_SPELT = _address(
    rf"(?: ?@ ?| ?[(\[] ?at ?[)\]] ?| at (?:the rate )?){_MAILER}"
    r"(?: ?[(\[]? ?(?:\.|dot) ?[)\]]? ?(?:com|co|in|net|me)\b){1,2}"
)
_BRACKETED_DOT = r" ?[\[({<] ?(?:\.|dot) ?[\])}>] ?"
_DOT = rf"(?:{_BRACKETED_DOT}| dot |\.)"
_NAME = rf"[{_CHAR}][{_CHAR}.+%&-]*+(?:(?:{_BRACKETED_DOT}| dot )[{_CHAR}+%&-]++){{0,3}}+"
_EMAIL_BRACKETS = re.compile(
    rf"(?<![{_CHAR}.+%&-])[.+%&-]*+({_NAME}(?: ?[\[({{<] ?(?:at|@) ?[\])}}>] ?[{_CHAR}-]++"
    rf"(?:{_DOT}[a-z][a-z0-9-]++){{1,4}}+"
    rf"| ?@ ?[{_CHAR}-]++(?:(?:{_BRACKETED_DOT}| dot )[a-z]{{2,}}+){{1,4}}+))",
    re.I,
)
_EMAIL_WORDS = re.compile(  # " at … dot com" in prose is a web site
    rf"(?<![{_CHAR}.+%&-])[.+%&-]*+(?P<name>{_NAME}) at [a-z0-9-]++(?: dot [a-z0-9-]+){{0,2}}?"
    r"(?: dot (?:com|co|in|net|org|edu|gov|ac|info|io|biz|me)){1,2}(?![^\W_])",
    re.I,
)
_AT_BRACKETS = re.compile(r"[\[({<] ?(?:at|@) ?[\])}>]", re.I)
_EMAIL_BEFORE = re.compile(
    rf"(?:{_START}(?:e-?mail|mail|gmail|contact|reach)|मेल|{_START}(?:id|address)(?= is| hai|:))"
    rf"(?:{_LINK}|add?ress|id|me|us|to|at)*+$"
    rf"|{_START}(?:send|sent|write|forward|reply|cc)(?: [^\W\d_]+){{0,3}} to $",
    re.I,
)
_EMAIL_AFTER = re.compile(
    r"[ ,]{1,2}(?:is |hai )?(?:my |mera |meri |pe |par |ko )*(?:e-?mail|mail|bhej|likh|मेल)", re.I
)
_UPI = _address(rf"@(?!{_MAILER}{_WHOLE})([a-z][a-z0-9]{{1,63}})(?![^\W_]|[.-][^\W_])")
_UPI_SURE = _address(
    r" ?@ ?(?:ok(?:axis|hdfcbank|icici|sbi)|ybl|ibl|axl|y?apl|rapl|pt(?:axis|hdfc|sbi|yes))"
    rf"(?![^\W_]|\.(?:com|co|in)\b)|@[a-z0-9.]+\.npci{_WHOLE}"
)
_MAILER_PARTS = ("mail", "yahoo", "outlook", "rediff", "icloud", "proton")  # one is in each name
_OTHER_CASES = frozenset(
    "\u0130\u0131\u017f\u212a"
)  # what re.I takes for i, s and k, and str.lower does not
_NO_HANDLE = re.compile(
    "all|any|best|close|cmp|discount|high|home|least|low|ltp|market|mkt|most|nav|office|open|par"
    "|premium|price|rate|school|the|work",
    re.I,
)

# --- detectors ----------------------------------------------------------------

Candidate = tuple[str, int, int]  # kind, start and end in the view; kind "" protects


def _spans(view: str, kind: str, *patterns: re.Pattern[str]) -> Iterator[Candidate]:
    for pattern in patterns:
        for match in pattern.finditer(view):
            yield kind, match.start(1), match.end(1)


def _gstins(view: str) -> Iterator[Candidate]:
    for match in _GSTIN.finditer(view):
        code = re.sub(r"[\W_]", "", match[0]).upper()
        if _gstin_check(code[:14]) == code[14]:
            yield "GSTIN", match.start(), match.end()
        elif code[13] == "Z" and _PAN.fullmatch(code[2:12]):
            yield "PAN", match.start(), match.end()  # mistyped, but it still holds a PAN


def _upis(view: str) -> Iterator[Candidate]:
    yield from _spans(view, "UPI", _UPI_SURE)
    for match in _UPI.finditer(view):
        if match[1].index("@") > 1 and not _NO_HANDLE.fullmatch(match[2]):
            yield "UPI", match.start(1), match.end(1)


def _pans(view: str) -> Iterator[Candidate]:
    yield from (("PAN", match.start(), match.end()) for match in _PAN_LETTERS.finditer(view))
    for pattern in (_PAN, _PAN_SPACED):
        for match in pattern.finditer(view):
            if len(match[0]) == 10 or not _is_prose(view, match):
                yield "PAN", match.start(), match.end()


def _is_prose(view: str, match: re.Match[str]) -> bool:
    """Return whether a match is prose, such as "maybe 1500 a month", and no PAN in groups."""
    if _PROSE.fullmatch(match[1]):
        return True
    named = re.search(r"\bpan\b", view[max(0, match.start() - 20) : match.start()], re.I)
    return match[0].islower() and match[0].endswith((" a", "\na")) and not named


def _spelt_emails(view: str) -> Iterator[Candidate]:
    yield from _spans(view, "EMAIL", _EMAIL_BRACKETS)
    for match in _EMAIL_WORDS.finditer(view):
        start, end = match.start("name"), match.end()
        told = _EMAIL_BEFORE.search(view, max(0, start - _NEAR), start)
        if told or _EMAIL_AFTER.match(view, end) or re.search(r"[\d.]| dot ", match["name"]):
            yield "EMAIL", start, end


def _accounts(view: str) -> Iterator[Candidate]:
    for kind, start, end in _spans(view, "ACCOUNT", _ACCOUNT, _ACCOUNT_BROKEN):
        digits = re.sub(r"\D", "", view[start:end])
        if not 9 <= len(digits) <= 18 or digits.endswith("00000") or _PAISE.match(view, end):
            continue
        labels = _labels(view, start)
        if not _PHONE_LOOSE.fullmatch(digits):  # "account for mobile banking 12345678901"
            labels = [label for label in labels if label != "PHONE"]
        named = labels[-1:] == ["ACCOUNT"] or _ACCOUNT_AFTER.match(view, end)
        if named and not (_is_list(view[start:end]) or _is_money(view, start, end)):
            yield kind, start, end


def _checked(
    view: str, kind: str, valid: Callable[[str], bool], *patterns: re.Pattern[str]
) -> Iterator[Candidate]:
    """Yield the numbers whose check digit is right, less lists and plain amounts."""
    for _, start, end in _spans(view, kind, *patterns):
        number = view[start:end]
        if valid(re.sub(r"\D", "", number)) and not _is_list(number):
            plain = number.endswith("000") or _PAISE.match(view, end)
            if not (plain and _is_money(view, start, end)):
                yield kind, start, end


def _phones(view: str) -> Iterator[Candidate]:
    for kind, start, end in _spans(view, "PHONE", _PHONE_PREFIXED, _PHONE):
        number = view[start:end]
        sure = number.startswith(("+", "(", "00")) or _labels(view, start)[-1:] == ["PHONE"]
        if sure or not (_is_list(number) or _is_money(view, start, end)):
            yield kind, start, end
    for kind, start, end in _spans(view, "PHONE", _PHONE_LOOSE):
        broken_list = re.search(r"[\n/]", view[start:end]) and _is_list(view[start:end])
        if _labels(view, start)[-1:] == ["PHONE"] and not broken_list:
            yield kind, start, end
    yield from _broken_phones(view)


def _broken_phones(view: str) -> Iterator[Candidate]:
    """Yield numbers with a break where figures of two amounts may meet as well."""
    if "\n" not in view and "_" not in view and "/" not in view:
        return
    for kind, start, end in _spans(view, "PHONE", _PHONE_BROKEN, _PHONE_SLASHES):
        number = view[start:end]
        even = all(int(group) % 50 == 0 for group in re.findall(r"\d+", number))
        figure = _FIGURE_BEFORE.search(view, max(0, start - _NEAR), start)
        if not (even or figure or _is_list(number) or _is_money(view, start, end)):
            yield kind, start, end


def _landlines(view: str) -> Iterator[Candidate]:
    for kind, start, end in _spans(view, "PHONE", _LANDLINE):
        if not _SERIAL_BEFORE.search(view, max(0, start - _NEAR), start):
            yield kind, start, end
    for kind, start, end in _spans(view, "PHONE", _LANDLINE_WHOLE):
        if _labels(view, start)[-1:] == ["PHONE"]:
            yield kind, start, end


_DIGITS = re.compile(r"\d+")


def _candidates(view: str) -> Iterator[Candidate]:
    """Yield all candidates in order of precedence: of overlapping ones the first is kept.

    Codes and addresses that contain other numbers come first, then numbers named by a word, then
    those with a check digit, then those matched by shape alone. No pattern runs on a text that
    lacks what all its matches have: a number of digits, an at sign, the name of a mail service.
    """
    runs = _DIGITS.findall(view)
    sizes = [len(run) for run in runs]
    digits = sum(sizes)
    if 2 in sizes and 4 in sizes:
        yield from _gstins(view)
    lower = view.lower()
    if "dot" in lower or (
        ("(" in view or "[" in view or "{" in view or "<" in view) and _AT_BRACKETS.search(view)
    ):
        yield from _spelt_emails(view)
    if "@" in view:
        yield from _upis(view)
        yield from _spans(view, "EMAIL", _EMAIL, _EMAIL_BARE)
    if _may_name_mailer(view, lower):
        yield from _spans(view, "EMAIL", _EMAIL_SPELT)
    if digits >= 12:
        yield from _spans(view, "AADHAAR", _AADHAAR_WORD)
    if 4 in sizes or sizes.count(1) >= 4:
        yield from _pans(view)
    zero = any(run[0] == "0" for run in runs)  # follows the letters of an IFSC
    if digits < 9 and not zero:
        return
    yield from _spans(view, "", _REFERENCE, _FOLIO, _BANK_CODE)
    if digits >= 9:
        yield from _accounts(view)
    if digits >= 12:
        yield from _checked(view, "CARD", _luhn, _CARD_LONG, _CARD, _CARD_BROKEN)
        yield from _checked(view, "AADHAAR", _verhoeff, _AADHAAR, _AADHAAR_BROKEN)
    if zero:
        yield from _spans(view, "IFSC", _IFSC, _IFSC_WORD, _IFSC_OTHER)
    if digits >= 10:
        yield from _phones(view)
    if digits >= 11 and zero:
        yield from _landlines(view)
    if digits >= 12 and ("+" in view or zero):
        yield from _spans(view, "PHONE", _LANDLINE_ABROAD)


def _may_name_mailer(view: str, lower: str) -> bool:
    for part in _MAILER_PARTS:  # a loop takes half the time of any() here
        if part in lower:
            return True
    return not (view.isascii() or _OTHER_CASES.isdisjoint(view))


def _resolve(view: str) -> list[Candidate]:
    """Return the candidates that overlap no earlier one, by position."""
    taken = bytearray(len(view))
    kept = []
    for kind, start, end in _candidates(view):
        if taken.find(1, start, end) < 0:
            taken[start:end] = b"\x01" * (end - start)
            kept.append((kind, start, end))
    return sorted((one for one in kept if one[0]), key=lambda one: one[1])


def _resolve_lettered(view: str) -> list[Candidate]:
    digits = _with_digits(view)
    return [] if digits == view else _resolve(digits)


# --- public functions ----------------------------------------------------------


def find_pii(query: str) -> list[Finding]:
    """Return the places of personal data in a query, by position, without overlaps.

    The search is repeated with the findings hidden until it finds nothing, which makes
    :func:`anonymize_query` idempotent.

    Raises
    ------
    TypeError
        If ``query`` is not a string.
    """
    if not isinstance(query, str):
        raise TypeError(f"query must be a str, not {type(query).__name__}")
    if "&" not in query:
        return _findings(query, range(len(query) + 1))
    return _findings(*_decoded(query))


def _findings(text: str, edges: Sequence[int]) -> list[Finding]:
    """Return the findings in ``text``, whose characters start and end at ``edges``."""
    view, index = _view(text)
    if "[" in view:
        view, index = _hide(view, index, [tag.span() for tag in _TAG.finditer(view)])
    findings = []
    while found := _resolve(view) or _resolve_lettered(view):
        findings += [
            Finding(kind, edges[index[start]], edges[index[end - 1] + 1])
            for kind, start, end in found
        ]
        view, index = _hide(view, index, [(start, end) for _, start, end in found])
    return sorted(findings, key=lambda finding: finding.start)


def anonymize_query(query: str) -> str:
    """Return the query with each piece of personal data replaced by its tag.

    Examples
    --------
    >>> anonymize_query("Call +91 98765 43210 about my ₹12,34,567 loan")
    'Call [PHONE] about my ₹12,34,567 loan'
    """
    pieces, at = [], 0
    for finding in find_pii(query):
        pieces += [query[at : finding.start], f"[{finding.kind}]"]
        at = finding.end
    return "".join(pieces) + query[at:]


def hide_password(text: str) -> str:
    """Return a text with the password of every address in it replaced by stars."""
    return re.sub(r"(://[^/\s:@]*:)[^/\s]+@", r"\1***@", text)


_TECHNICAL = ("id", "fold", "source")


def show(frame: pd.DataFrame, rows: int = 5, columns: Sequence[str] = ("query",)) -> pd.DataFrame:
    """Return the first rows anonymised, for display: cell outputs are published in reports.

    Texts come first and are shown in full; technical columns are left out.
    """
    import pandas as pd

    class Shown(pd.DataFrame):
        def _repr_html_(self) -> str:
            with pd.option_context("display.max_colwidth", None):
                return self.to_html(index=False, border=0, na_rep="", classes="texts")

    texts = [c for c in columns if c in frame]
    others = [c for c in frame.columns if c not in (*texts, *_TECHNICAL)]
    shown = frame.head(rows).copy()
    for name in texts:
        shown[name] = shown[name].map(lambda t: anonymize_query(t) if isinstance(t, str) else t)
    return Shown(shown[texts + others])
