"""No number below is a person's: all are made up, most by the generators at the top."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nivesh_lib import privacy
from nivesh_lib.privacy import (
    KINDS,
    Finding,
    anonymize_query,
    find_pii,
    hide_password,
    show,
)

# Always the same examples: a check that fails now and then is no check.
steady = settings(derandomize=True, deadline=None, max_examples=100)

BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# --- check digits, worked out another way than the library does -----------------


def dihedral(a: int, b: int) -> int:
    """Multiply in D5: 0-4 are rotations, 5-9 reflections."""
    turn = (a + b) % 5 if a < 5 else (a - b) % 5
    return turn + 5 * ((a < 5) != (b < 5))


def verhoeff_digit(digits: str) -> str:
    """Append each digit in turn; exactly one of them is right."""

    def permuted(digit: int, times: int) -> int:
        for _ in range(times % 8):
            digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
        return digit

    def state(number: str) -> int:
        total = 0
        for position, digit in enumerate(number[::-1]):
            total = dihedral(total, permuted(int(digit), position))
        return total

    return next(digit for digit in "0123456789" if state(digits + digit) == 0)


def luhn_digit(digits: str) -> str:
    folded = [int("0246813579"[int(digit)]) for digit in digits[::-2]]
    return str(-(sum(folded) + sum(map(int, digits[-2::-2]))) % 10)


def gstin_character(first14: str) -> str:
    total, factor = 0, 2
    for char in first14[::-1]:
        addend = factor * BASE36.index(char)
        total += addend // 36 + addend % 36
        factor = 3 - factor
    return BASE36[(36 - total % 36) % 36]


AADHAAR = "23456789012" + verhoeff_digit("23456789012")
GSTIN = "29ABCPE1234F1Z" + gstin_character("29ABCPE1234F1Z")
WRONG_GSTIN = GSTIN[:-1] + BASE36[(BASE36.index(GSTIN[-1]) + 1) % 36]


@pytest.mark.parametrize("number", ["2363", "142857" + verhoeff_digit("142857"), AADHAAR])
def test_verhoeff_accepts_the_right_digit_only(number):
    accepted = [digit for digit in "0123456789" if privacy._verhoeff(number[:-1] + digit)]
    assert accepted == [number[-1]]


def test_verhoeff_catches_every_swap_of_neighbours():
    for at, (left, right) in enumerate(pairwise(AADHAAR)):
        if left != right:
            assert not privacy._verhoeff(AADHAAR[:at] + right + left + AADHAAR[at + 2 :])


@pytest.mark.parametrize("number", ["79927398713", "4111111111111111", "378282246310005"])
def test_luhn_accepts_the_right_digit_only(number):
    accepted = [digit for digit in "0123456789" if privacy._luhn(number[:-1] + digit)]
    assert accepted == [number[-1]] == [luhn_digit(number[:-1])]


def test_known_check_digits():
    assert (AADHAAR, GSTIN) == ("234567890124", "29ABCPE1234F1Z7")


@steady
@given(st.text(BASE36, min_size=14, max_size=14))
def test_gstin_character_agrees_with_the_other_way(first14):
    assert privacy._gstin_check(first14) == gstin_character(first14)


# --- what is found --------------------------------------------------------------

FOUND = [
    # e-mail
    ("mail rahul.sharma@gmail.com, please", "mail [EMAIL], please"),
    ("RAHUL+tax@EXAMPLE.ORG!", "[EMAIL]!"),
    ("rahul@sbi.co.in is no UPI id", "[EMAIL] is no UPI id"),
    ("rahul@paytm.com", "[EMAIL]"),
    ("...rahul_s@x.in...", "...[EMAIL]..."),
    ("rahul＠gmail．com", "[EMAIL]"),
    ("राहुल@डाटामेल.भारत को लिखो", "[EMAIL] को लिखो"),
    ("rahul at gmail dot com", "[EMAIL]"),
    ("rahul [at] gmail [dot] com", "[EMAIL]"),
    ("rahul @ gmail.com ya rahul@gmail", "[EMAIL] ya [EMAIL]"),
    ("rahul at gma\x07il dot com, asha at ymaıl dot com", "[EMAIL], [EMAIL]"),
    # phone
    ("call 9876543210", "call [PHONE]"),
    ("+91 98765 43210", "[PHONE]"),
    ("+919876543210", "[PHONE]"),
    ("(+91) 98765-43210", "[PHONE]"),
    ("+91 (98765) 43210", "[PHONE]"),
    ("0091-98765-43210", "[PHONE]"),
    ("0987-654-3210, 09876543210 or 919876543210", "[PHONE], [PHONE] or [PHONE]"),
    ("987-654-3210, 9876 543 210", "[PHONE], [PHONE]"),
    ("98765 43210/87654 32109", "[PHONE]/[PHONE]"),
    ("mobile no 98 7654 3210 hai", "mobile no [PHONE] hai"),
    ("मेरा फोन ९८७६५४३२१० है", "मेरा फोन [PHONE] है"),
    ("call9876543210abhi", "call[PHONE]abhi"),
    ("transaction to 9876543210 failed", "transaction to [PHONE] failed"),
    ("9876543210 Rs 500 bhejo", "[PHONE] Rs 500 bhejo"),
    ("account linked to mobile 9876543210", "account linked to mobile [PHONE]"),
    ("call 80000 90000", "call [PHONE]"),
    ("12\t9876500000", "12\t[PHONE]"),
    # Aadhaar
    ("234567890124", "[AADHAAR]"),
    ("2345 6789 0124", "[AADHAAR]"),
    ("2345-6789-0124 and 2345.6789.0124", "[AADHAAR] and [AADHAAR]"),
    ("2345 – 6789 – 0124", "[AADHAAR]"),
    ("2345\u00a06789\u20090124", "[AADHAAR]"),
    ("2345\u200b6789\u200d0124", "[AADHAAR]"),
    ("2345\n6789\n0124", "[AADHAAR]"),
    ("२३४५ ६७८९ ०१२४", "[AADHAAR]"),
    ("２３４５６７８９０１２４", "[AADHAAR]"),
    ("٢٣٤٥٦٧٨٩٠١٢٤", "[AADHAAR]"),
    ("𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗𝟎𝟏𝟐𝟒", "[AADHAAR]"),
    ("aadhaar234567890124", "aadhaar[AADHAAR]"),
    ("UID:234567890124", "UID:[AADHAAR]"),
    ("Mera adhar card ka no. 2345-67890124 hai", "Mera adhar card ka no. [AADHAAR] hai"),
    ("aadhaar 2345 6789 0123", "aadhaar [AADHAAR]"),  # wrong check digit, but named
    ("आधार संख्या 123456789012", "आधार संख्या [AADHAAR]"),
    ("flat 12 2345 6789 0124", "flat 12 [AADHAAR]"),
    ("ref ke liye aadhaar 234567890124", "ref ke liye aadhaar [AADHAAR]"),
    # PAN
    ("PAN ABCPE1234F hai", "PAN [PAN] hai"),
    ("abcpe1234f", "[PAN]"),
    ("ABCPE 1234 F, abcpe-1234-f", "[PAN], [PAN]"),
    ("A B C P E 1 2 3 4 F", "[PAN]"),
    ("panABCPE1234Fhai", "pan[PAN]hai"),
    ("AＢＣＰＥ１２３４F", "[PAN]"),
    *((f"ABC{kind}E1234F", "[PAN]") for kind in "ABCFGHJLPT"),
    # card
    ("card 4111111111111111", "card [CARD]"),
    ("4111 1111 1111 1111 cvv 123", "[CARD] cvv 123"),
    ("4111-1111-1111-1111 or 4111.1111.1111.1111", "[CARD] or [CARD]"),
    ("4111\u00a01111\u00a01111\u00a01111", "[CARD]"),
    ("3782 822463 10005", "[CARD]"),
    ("30569309025904", "[CARD]"),
    # UPI
    ("name@okhdfcbank ko bhejo", "[UPI] ko bhejo"),
    ("name@ybl, 9876543210@paytm.", "[UPI], [UPI]."),
    ("rahul.s-99@upi", "[UPI]"),
    ("9876543210 @ okaxis", "[UPI]"),
    ("12345678901@HDFC0001234.ifsc.npci", "[UPI]"),
    ("ABCPE1234F@sbi", "[UPI]"),
    # IFSC
    ("SBIN0001234", "[IFSC]"),
    ("hdfc0cagsbk, HDFC 0001234", "[IFSC], [IFSC]"),
    ("ABCD0123456", "[IFSC]"),
    ("ifsc code abcd0123456", "ifsc code [IFSC]"),
    # account
    ("my a/c 12345678901", "my a/c [ACCOUNT]"),
    ("a/c no. 1234 5678 9012 3", "a/c no. [ACCOUNT]"),
    ("Salary account SBI 20123456789 mein", "Salary account SBI [ACCOUNT] mein"),
    ("acct 0012-3456-789012", "acct [ACCOUNT]"),
    ("khata number 123456789", "khata number [ACCOUNT]"),
    ("खाता संख्या १२३४५६७८९०१२", "खाता संख्या [ACCOUNT]"),
    ("12345678901 is my account number", "[ACCOUNT] is my account number"),
    ("accounts 123456781, 123456782 and 123456783", "accounts [ACCOUNT], [ACCOUNT] and [ACCOUNT]"),
    ("account for mobile banking 12345678901", "account for mobile banking [ACCOUNT]"),
    # GSTIN
    (GSTIN, "[GSTIN]"),
    (f"gstin{GSTIN.lower()}hai", "gstin[GSTIN]hai"),
    ("29-ABCPE1234F-1Z7", "[GSTIN]"),
    ("29 ABCPE1234F 1ZX", "[PAN]"),
    (WRONG_GSTIN, "[PAN]"),  # mistyped, but a PAN is in it: nothing of it stays
    # several, as people write
    ("mera number note kar 98 765 432 10", "mera number note kar [PHONE]"),
    (
        "Bhai mera PAN ABCPE1234F hai aur Aadhaar 2345 6789 0124, ₹50L home loan milega?",
        "Bhai mera PAN [PAN] hai aur Aadhaar [AADHAAR], ₹50L home loan milega?",
    ),
    (
        "my acct no 50100123456789 ifsc HDFC0000123 please transfer 20000",
        "my acct no [ACCOUNT] ifsc [IFSC] please transfer 20000",
    ),
    (
        "account 12345678901 se 50000 kat gaye txn 412345678901, call +91-98765-43210",
        "account [ACCOUNT] se 50000 kat gaye txn 412345678901, call [PHONE]",
    ),
    (
        "UPI/DR/234567890124/RAHUL/9876543210@ybl/Pay Rs.500/-",
        "UPI/DR/234567890124/RAHUL/[UPI]/Pay Rs.500/-",
    ),
    (
        "Aadhaar(2345 6789 0124)/PAN(ABCPE1234F) linked? DOB 12-05-1990",
        "Aadhaar([AADHAAR])/PAN([PAN]) linked? DOB 12-05-1990",
    ),
    (
        "मेरा अकाउंट १२३४५६७८९०१ है, ईमेल a@b.in, ₹१२,३४,५६७ का लोन",
        "मेरा अकाउंट [ACCOUNT] है, ईमेल [EMAIL], ₹१२,३४,५६७ का लोन",
    ),
    (
        "1 lakh 500 rupaye me 9876543210 ko bheje, card 4111-1111-1111-1111 se 12000/-",
        "1 lakh 500 rupaye me [PHONE] ko bheje, card [CARD] se 12000/-",
    ),
    (
        f"aadhaar 2345 6789 0124, mob 9876543210, pan abcpe1234f, gst {GSTIN}, id a@b.in, x1@ybl",
        "aadhaar [AADHAAR], mob [PHONE], pan [PAN], gst [GSTIN], id [EMAIL], [UPI]",
    ),
]


ODD = [
    # broken by a newline, a slash or an underscore
    ("aadhaar 2345/6789/0124, 2345_6789_0124", "aadhaar [AADHAAR], [AADHAAR]"),
    ("uid 23456\n7890124 and 2345678_90124", "uid [AADHAAR] and [AADHAAR]"),
    ("my number 98765/43210, 98765_43210, 987/654/3210", "my number [PHONE], [PHONE], [PHONE]"),
    ("98765/43210 pe bhejo", "[PHONE] pe bhejo"),
    ("98765\n43210", "[PHONE]"),
    ("9876\r\n543210, 9876543_210, 98765-\n43210", "[PHONE], [PHONE], [PHONE]"),
    ("+91\n98765\n43210 or +91/98765/43210, +91_9876543210", "[PHONE] or [PHONE], [PHONE]"),
    ("call 98\n765\n43210 or 98/7654/3210", "call [PHONE] or [PHONE]"),
    ("4111/1111/1111/1111, 4111_1111_1111_1111", "[CARD], [CARD]"),
    ("4111\n1111\n1111\n1111 ya 411111\n1111111111", "[CARD] ya [CARD]"),
    ("a/c no 1234567\n8901, a/c 1234_5678_901", "a/c no [ACCOUNT], a/c [ACCOUNT]"),
    ("pan ABCPE\n1234\nF, ABCPE_1234_F, ABCPE/1234/F", "pan [PAN], [PAN], [PAN]"),
    ("29\nABCPE1234F\n1Z7", "[GSTIN]"),
    # letters for digits
    ("call 98765432lO or 9876543OIO", "call [PHONE] or [PHONE]"),
    ("98765 432l0, 9O123 45678, +91 98765 4321O", "[PHONE], [PHONE], [PHONE]"),
    ("9876543210O, call l234567890 9876543210l", "[PHONE]O, call l234567890 [PHONE]l"),
    ("aadhaar 2345 6789 Ol24, 23456789O124", "aadhaar [AADHAAR], [AADHAAR]"),
    ("4lll 1111 1111 1111, 4IIIIIIIIIIIIII1", "[CARD], [CARD]"),
    ("a/c no 5O1OO1234567", "a/c no [ACCOUNT]"),
    ("pan ABCPE12O4F, abcpel234f", "pan [PAN], [PAN]"),
    ("SBINO0O1234, HDFCO001234", "[IFSC], [IFSC]"),
    ("987\n654\n32lO, 98765/432lO", "[PHONE], [PHONE]"),
    # HTML entities
    ("&#57;&#56;&#55;&#54;&#53;&#52;&#51;&#50;&#49;&#48; hai", "[PHONE] hai"),
    ("call &#x39;876543210, 98765&nbsp;43210 &amp; wait", "call [PHONE], [PHONE] &amp; wait"),
    ("&amp;#57;876543210 &#57876543210 &#57&#56;76543210", "[PHONE] &#57876543210 [PHONE]"),
    ("rahul&commat;example&period;com, rahul&#64;example.com", "[EMAIL], [EMAIL]"),
    ("rahul&#x40;ybl", "[UPI]"),
    ("2345&#45;6789&hyphen;0124, 2345&NewLine;6789&sol;0124", "[AADHAAR], [AADHAAR]"),
    # letters of other scripts
    ("PAN АВСРЕ1234Н, ΑΒCΡΕ1234K, abсpe1234f", "PAN [PAN], [PAN], [PAN]"),
    ("АBCPE 1234 F", "[PAN]"),
    ("29АBCPE1234F1Z7, SВIN0001234, ЅΒΙΝ0001234", "[GSTIN], [IFSC], [IFSC]"),
    ("rahul at gmаil dot com", "[EMAIL]"),
    ("98765О321О, 987654321Ο", "[PHONE], [PHONE]"),
    # addresses
    ("mail rahul [at] example [dot] com", "mail [EMAIL]"),
    ("rahul(at)example(dot)com, rahul {at} example {dot} co {dot} in", "[EMAIL], [EMAIL]"),
    ("rahul <AT> example.com, rahul [@] example [.] com", "[EMAIL], [EMAIL]"),
    ("rahul [dot] sharma [at] example dot com", "[EMAIL]"),
    ("rahul@example[dot]com, rahul @ example dot com", "[EMAIL], [EMAIL]"),
    ("my email is rahul at example dot com", "my email is [EMAIL]"),
    ("email id: asha at example dot co dot in hai", "email id: [EMAIL] hai"),
    ("rahul.sharma at example dot com pe", "[EMAIL] pe"),
    ("rahul dot sharma at example dot org", "[EMAIL]"),
    ("asha at example dot com is my email", "[EMAIL] is my email"),
    ("send the statement to asha at example dot com", "send the statement to [EMAIL]"),
    # landlines
    ("044-2345 6789, 0124 456 7890, (022) 2345 6789", "[PHONE], [PHONE], [PHONE]"),
    ("+91 44 2345 6789 or +91-124-4567890", "[PHONE] or [PHONE]"),
    ("0120-4567890, 01234-567890, 080 4123-4567", "[PHONE], [PHONE], [PHONE]"),
    ("(0124)4567890, 022/2345 6789, 0821_2345678", "[PHONE], [PHONE], [PHONE]"),
    ("+91 (0)22 2345 6789, 0091 11 2345 6789", "[PHONE], [PHONE]"),
    ("landline 04423456789 par call karo", "landline [PHONE] par call karo"),
    ("office ka 044\n23456789", "office ka [PHONE]"),
]


@pytest.mark.parametrize(("text", "expected"), FOUND + ODD)
def test_personal_data_is_replaced(text, expected):
    assert anonymize_query(text) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_in_the_table(kind):
    assert any(f"[{kind}]" in expected for _, expected in FOUND)


# --- what stays -----------------------------------------------------------------

KEPT = [
    "",
    "Can I afford a ₹50L home loan?",
    "₹12,34,567 or 1,20,000 or 50 lakh or 2.5 cr",
    "Rs 5000000000 in FD, Rs. 9876543210, ₹ 9876543210, ₹98765 43210",
    "INR 9876543210.00 aur amount 9876543210 aur 9876543210 rupees",
    "Rs 200000000000",
    "account mein Rs 123456789 hai, account has 123456789 rupees, a/c balance 123456789.50",
    "account mein 100000000 hai",
    "salary 75000-80000, slab 60001-80000, 80000 90000, 25000-75000-95000",
    "SIPs 2500 3500 4500, 250 300 350 400, ages 60 65 70 75 80",
    "years 2019 2020 2021, 2022 2023 2024, 2023-2024-2025",
    "ye 123456789012 kya hai",
    "234567890123 and 2345 6789 0123",
    "4111 1111 1111 1112, card 4111111111111112",
    "UTR 234567890124, UTR number is 234567890124, RRN:234567890124",
    "ref no 234567890124, txn 2345 6789 0124, transaction id 4111111111111111",
    "UPI/234567890124/RAHUL, IMPS-234567890124",
    "account debited, UTR 412345678901",
    "HDFCR52026051234567890, SBIN323123456789, T2605121234567890123456",
    "ref AXISP00123456789",
    "folio no 12345678/90, folio 9876543210, mutual fund folio 234567890124",
    "pin 560034, section 80CCD(1B), 80C, 80D, Form 16, 401k, AY 2026-27",
    "12-05-2026, 2026-05-12, 12/05/2026 10:30, 12.5%",
    "HDFCBANK INFY NIFTY50 NIFTY 24500 SENSEX 81000",
    "KA01AB1234, MH12DE1433, MH 12 DE 1433",
    "meet @ 5pm, meet @5pm, meet@home, ITC@450, BUY INFY@CMP, @rahul, t.me/@rahul",
    "SIP @ 5000 @ 12% p.a. pay via @upi",
    "total 5000 a month, maybe 1500 a month, worth 2000 a piece, 5 lakhs 2000 a month",
    "ABCDE1234F ABC1234F ABCPE12345F",
    "with0income rate0change LOAN0123456 HDFC0 hdfc00012345",
    "5555555555, 1234567890, 12345 67890, 1800 123 4567, 98765432101234",
    "an account with 50000 20000 10000, account opened 12-05-2026",
    "12345678901, according to 123456789",
    "an account that was opened last year by my brother for certificate 123456781",
    "0.9876543210",
    "0.4111111111111111",  # would pass Luhn's check
    "0.918    9.536  11.178",  # a row of a table
    "[EMAIL] [AADHAAR] 123456789012 [ACCOUNT] 123456789012",
    "nul \x00 \ud800 \u200b e\u0301 ½ ﷺ 🙂\u200d🙂 \r\n end",
]


@pytest.mark.parametrize("text", [text for line in KEPT for text in [line, *line.split(", ")]])
def test_look_alikes_stay(text):
    assert anonymize_query(text) == text


# Queries that look like personal data in odd spelling. The patterns were written with the
# first list in view, the second was fixed before them and never consulted.
DEVELOPMENT = [
    "SIP from 12/05/2024 to 12/05/2034, 5000/6000 a month",
    "AY 2024-25/2025-26, slab 7/10/12 lakh",
    "folio 9876543/21 ka statement, 12345678/90 bhi",
    "cheque 000451/000452 stop payment, charges 236/118",
    "NAV 104.2345/98.7612, 9876.543 units",
    "Form 15G/15H/26AS/16A kab milega",
    "salary 65000/72500, expense 61250/58000",
    "premium 71200/84350 hai do policies ka",
    "price 65432/71234, gold 72345/73120 per 10g",
    "sensex 81245/81390, nifty 24567/24610",
    "score 765/812/698, cibil 700/750/800",
    "marks 98/76/54/32/10 out of 100, education loan?",
    "challan 0510308/120524/00456 for advance tax 78650",
    "loan LN/98765/43210 ka foreclosure letter",
    "agreement no 98765/43210/2024 stamp duty",
    "spent\n61234\n72345\n8190\nin three months",
    "two EMIs:\n64321\n71290\ncan I merge them?",
    "sip\n7500\n250000\nlumpsum",
    "my goals:\n1. car 850000\n2. house 6500000\n3. retire",
    "statement_2024_05_12_0930.pdf ka password",
    "form_80_2024_2025 and itr_2023_24_v2",
    "scheme_120503_119551 vs scheme_118989",
    "10l/15l/20l home loan, 1.5l salary",
    "20l 25l 30l 35l which cover",
    "100l 150l 200l property",
    "I0 lakh or 1O lakh? typo in form",
    "5OOO SIP, 1OOOO bonus, 2OOOOO savings, 3OOOOO loan",
    "ROI 1O.5% vs 9.Ol%",
    "Plan Il and plan Ill, tier I/II NPS 50000",
    "&nbsp;Invest &#8377;50,000 &amp; relax",
    "P&L of &euro;9876 &ndash; &euro;12345",
    "&#8377; 65432/71234 per month",
    "&#x20B9;98765 43210 crore budget",
    '"Рост" and "Банк" mean what, my 5000 SIP?',
    "ΣΧΕΔΙΟ 2024 fund in Greece, NRI tax?",
    "beta β 1.2, alpha α 3456 a share",
    "login at icicibank dot com fails, 500 debited",
    "shop at amazon dot in with EMI",
    "look at zerodha dot com or at groww.in",
    "I am at work dot. Call later about FD",
    "meet (at) office, 5000 petty cash (dot)",
    "bought at 245.60 dot sold at 250",
    "mail them at any branch, dot com or not",
    "0.0124 4567890 is the ratio, 0.044-2345 6789",
    "STD code 0124 or 044, bank in Chennai",
    "policy 0124-4567890, cheque 044-23456789",
    "receipt no 0124 456 7890 for the premium",
    "branch 0124 account opened, 4567890 balance",
    "customer id 022-23456789 locked, application 080 41234567",
    "period 04-2023 4567 8901 units, 01-2345 6789 code",
]

HIDDEN = [
    "invested 01/04/2023-31/03/2024, what is my XIRR for FY 2023/24?",
    "invoice 2023/24/00187 dated 12/05/2024, paid on 28/06/2024: interest u/s 50?",
    "redeem folio 1234567/89 and 7654321/01, units 5000/6000",
    "cheque no 712345 and 712346 bounced, charges 354/295",
    "NAV went 104.2345 -> 105.6789 -> 98.7654, should I exit?",
    "15G/15H dena hai, FD interest limit 40000/50000",
    "home loan 10 lakh/15 lakh for 15/20 years, emi 9650/14475",
    "80CCD(1B) 50000, 80C 150000, 24(b) 200000, 80D 25000/50000",
    "premium quotes 61240/73815 for the same cover, which one is better?",
    "Sensex 73248/72989 support hai kya, banknifty 47100/46850",
    "ISIN INE002A01018 and INE040A01034, how many shares at avg 2456.75?",
    "scheme code 119551_120503, compare 3Y and 5Y returns",
    "file gstr_3b_082023_092023.pdf upload nahi ho rahi",
    "expenses:\n18250\n6420\n3199\nhow do I cut them?",
    "rent 24500\nemi 31875\nsip 15000\ntotal kitna bacha from 98000?",
    "salary credits:\n64890\n65320\nis a 12 lakh loan possible?",
    "bill 8745/-\n9120/-\n7688/- last three months of electricity",
    "EMI 98O0? bank says 9,800 but app shows 98OO",
    "lOl why is my SIP of 5OOO debited twice",
    "Ill health cover of 10l or 25l for parents aged 61/67?",
    "SOLO traveller budget 1l per month for 12 months",
    "need 50l 75l 85l loan comparison, 15/20/25 yrs",
    "PPF 1.5l 1.5l 1.5l each year, maturity?",
    "Tata AIA &amp; HDFC Life, term plan of &#8377;1,00,00,000 at age 32",
    "pay &#8377;9876543210 in tax? just kidding, how much on 98.7 lakh",
    "AT&T shares, S&P 500 &lt; 5000 &gt; 4800, dollar 83.12",
    "&quot;safe&quot; returns of 7&#37; on 500000 for 5 years",
    'what is "инвестиция" in English, and is 5000 enough to start?',
    "a friend from Москва sent 250000 RUB, is it taxable in India?",
    "Is β above 1 risky? α of 2.3 and σ 14.5 over 2021/2022/2023",
    "Ω watch of 245000 on EMI 24 months or lump sum?",
    "I am at a loss, dot your i's they said; is ELSS fine?",
    "I looked at groww dot in for a direct plan, fees of 0.5%?",
    "complaint filed at sebi dot gov dot in about broker, no reply in 30 days",
    "invest at par (at 1000 each) or wait for a discount, dot com crash again?",
    "available at nsdl.co.in or cdsl, which demat is cheaper",
    "interest 0.0124 4567 units, rounding or cheating?",
    "mileage 044, cost 2345, emi 6789 for a bike loan of 120000",
    "PF withdrawal 0124567 pending since 08/2023, 11000/13500 due",
    "loan application 0120-7788 status, amount 650000",
    "ref 022/2345/6789 on my home loan sanction letter of 12-05-2024",
    "policy number 0124 4567890 lapsed, revive with 18240?",
    "ticket 0445/23456789 raised for TDS mismatch of 8125",
    "pincode 560034/560102 mein property 6500/7200 per sqft",
    "buy 100 shares @ 245.60/246.10, target 270/285, SL 238",
    "kharcha 2019/2020/2021/2022 ka compare karo",
    "ages 61/58/34/32/6, family floater 10 lakh/25 lakh",
    "TDS 194IA/194IB/194J at 1%/5%/10% on 62500/74800 a month",
    "UTR 4123_4567_8901 pending, amount 7500",
    "loan account balance\n845210\n712388\nwhich one to prepay?",
]


@pytest.mark.parametrize("text", DEVELOPMENT + HIDDEN)
def test_finance_queries_that_resemble_odd_spellings_stay(text):
    assert anonymize_query(text) == text


def test_the_letters_that_are_no_holder_type_make_no_pan():
    letters = set(BASE36[10:]) - set("ABCFGHJLPT")
    assert all(anonymize_query(f"ABC{letter}E1234F") == f"ABC{letter}E1234F" for letter in letters)


# --- in any words, in any writing -----------------------------------------------

# A currency sign before a number makes it an amount, so it is kept out of random text.
words = st.text(st.characters(exclude_categories=["Sc"]), max_size=25)
digits = st.text("0123456789", min_size=18, max_size=18)
scripts = st.sampled_from(
    ["0123456789", "०१२३४५६७८९", "０１２３４５６７８９", "٠١٢٣٤٥٦٧٨٩", "০১২৩৪৫৬৭৮৯"]
)
gaps = st.sampled_from(
    [" ", "-", ".", "\u00a0", "\u2009", "\u200b", "–", " - ", "\t", "\u202f", "\n", "/", "_"]
)


def plain(text: str) -> str:
    return privacy._view(text)[0].upper()


def bare(text: str) -> str:
    return re.sub(r"[\W_]", "", plain(text))


@st.composite
def written(draw, number: str, groupings: list[tuple[int, ...]]) -> str:
    """Write the number in groups, in some script, with invisible characters."""
    gap, script, pieces, at = draw(gaps), draw(scripts), [], 0
    for size in draw(st.sampled_from([(len(number),), *groupings])):
        pieces.append(number[at : at + size])
        at += size
    text = gap.join(pieces)
    if draw(st.booleans()):
        text = text.translate(str.maketrans("0123456789", script))
    return text.replace(text[3], text[3] + draw(st.sampled_from(["", "\u200b", "\u2060", "\xad"])))


def surrounded(draw, text: str) -> str:
    left, right = draw(words), draw(words)
    assume(not plain(left)[-1:].isdigit() and not plain(right)[:1].isdigit())
    assume(not plain(left).endswith(("0.", "+")) and not plain(right).startswith("/"))
    return left + text + right


def hides(text: str, secret: str) -> bool:
    return secret not in bare(anonymize_query(text))


@steady
@given(st.data(), digits)
def test_an_aadhaar_is_removed(data, random):
    number = str(2 + int(random[0]) % 8) + random[1:11]
    number += verhoeff_digit(number)
    assume(number[-1] in "2378")  # groups that all end in 0, 1, 5 or 9 may be amounts
    shapes = [(4, 4, 4), (6, 6), (4, 8), (8, 4), (3,) * 4, (2,) * 6, (1,) * 12]
    text = surrounded(data.draw, data.draw(written(number, shapes)))
    assert hides(text, number)


@steady
@given(st.data(), digits, st.sampled_from(["aadhaar", "Aadhar No. ", " UID: ", "आधार संख्या "]))
def test_a_named_aadhaar_is_removed_whatever_its_check_digit(data, random, word):
    text = surrounded(data.draw, word + data.draw(written(random[:12], [(4, 4, 4), (5, 7)])))
    assert hides(text, random[:12])


@steady
@given(
    st.data(), digits, st.sampled_from(["", "+91", "+91 ", "+91-", "0", "0091 ", "91", "(+91) "])
)
def test_a_phone_number_is_removed(data, random, prefix):
    number = str(6 + int(random[0]) % 4) + random[1:10]
    assume(number[-1] in "2378")
    shapes = [(5, 5), (3, 3, 4), (4, 3, 3)]
    if "91" in prefix:
        shapes += [(4, 6), (2, 8), (2, 4, 4)]
    text = prefix + data.draw(written(number, shapes))
    assert hides(surrounded(data.draw, text), number)


@steady
@given(st.data(), digits, st.integers(13, 19))
def test_a_card_is_removed(data, random, size):
    number = str(1 + int(random[0]) % 9) + random[1 : size - 1]
    number += luhn_digit(number)
    assume(number[-1] in "2378")
    shapes = {16: [(4, 4, 4, 4), (8, 8)], 15: [(4, 6, 5)], 14: [(4, 6, 4)], 19: [(4, 4, 4, 4, 3)]}
    text = surrounded(data.draw, data.draw(written(number, shapes.get(size, []))))
    assert hides(text, number)


@steady
@given(
    st.data(), digits, st.sampled_from(["O1", "ol", "OI"]), st.sampled_from(["", " ", "-", "\n"])
)
def test_letters_for_digits_hide_no_number(data, random, letters, gap):
    phone = str(6 + int(random[0]) % 4) + random[1:5] + gap + random[5:9] + "3"
    aadhaar = "2" + random[1:4] + gap + random[4:8] + gap + random[8:11]
    aadhaar += verhoeff_digit(re.sub(r"\D", "", aadhaar))
    for number in (phone, aadhaar):
        text = number.translate(str.maketrans("01", letters))
        assume(number[-1] in "2378" and not re.search(r"\b[OoIl]+\b|\b\d+l\b", text))
        left, right = data.draw(words), data.draw(words)
        assume(not plain(left)[-1:].isdigit() and not plain(right)[:1].isdigit())
        output = anonymize_query(f"{left} ({text}) {right}")
        assert bare(number)[4:] not in bare(output).translate(str.maketrans("OLI", "011"))


@steady
@given(digits, st.sampled_from(["&#{};", "&#x{:x};", "&amp;#{};"]), st.integers(1, 10))
def test_entities_hide_no_number(random, form, count):
    number = "9" + random[:8] + "3"
    text = "".join(form.format(ord(digit)) for digit in number[:count]) + number[count:]
    assert anonymize_query(f"call {text}; ok") == "call [PHONE]; ok"


pans = st.from_regex(r"[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]", fullmatch=True).filter(
    lambda pan: not privacy._PROSE.fullmatch(pan[:5])
)


@steady
@given(st.data(), pans, st.sampled_from(["", " ", "-", "\u00a0", "\u200b"]), st.booleans())
def test_a_pan_is_removed(data, pan, gap, lower):
    text = gap.join((pan[:5], pan[5:9], pan[9]))
    left, right = data.draw(words), data.draw(words)
    if gap not in ("", "\u200b"):  # in groups it must stand alone: "flat 1234 a" is prose
        # and be named when it could end in an article: "maybe 1500 a month" is prose too
        left, right = left + (" pan:" if lower and pan[9] == "A" else ":"), "," + right
    assert hides(left + (text.lower() if lower else text) + right, pan)


@steady
@given(st.data(), pans, st.integers(1, 38), st.sampled_from(["", " ", "-"]), st.booleans())
def test_a_gstin_is_removed_whole(data, pan, state, gap, lower):
    code = f"{state:02}{pan}1Z"
    code += gstin_character(code)
    text = gap.join((code[:2], code[2:12], code[12:]))
    output = anonymize_query(f"gst {text.lower() if lower else text}, {data.draw(words)}")
    assert output.startswith("gst [GSTIN],")


@steady
@given(st.data(), st.integers(10**8, 10**18 - 1).map(str))
def test_a_named_account_number_is_removed(data, number):
    assume(number[-1] in "2378")
    word = data.draw(st.sampled_from(["a/c ", "account no: ", "Acct. ", "khata ", "खाता संख्या "]))
    assert hides(word + data.draw(written(number, [])) + ", " + data.draw(words), number)


# --- what random text and amounts keep ------------------------------------------


def indian(number: int) -> str:
    head, tail = str(number)[:-3], str(number)[-3:]
    return re.sub(r"(?<=\d)(?=(?:\d\d)+$)", ",", head) + "," + tail if head else tail


@steady
@given(
    st.integers(1, 10**11 - 1),
    st.sampled_from(["₹", "₹ ", "Rs ", "Rs.", "INR ", "rs. ", "amount of "]),
    st.sampled_from(["", "/-", ".50", " lakh", " crore", " rupees"]),
    st.booleans(),
)
def test_amounts_stay(number, sign, unit, commas):
    text = f"invest {sign}{indian(number) if commas else number}{unit} for 20 years"
    assert anonymize_query(text) == text


@steady
@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_amounts_with_commas_stay_without_a_sign(low, high):
    text = f"between {indian(low)} and {indian(high)} or {indian(low)}-{indian(high)}"
    assert anonymize_query(text) == text


@steady
@given(
    st.text(st.characters(exclude_categories=["Lu", "Nd", "No", "Nl"], exclude_characters="@＠﹫"))
)
def test_text_without_digits_at_signs_and_capitals_is_unchanged(text):
    assert anonymize_query(text) == text


# fmt: off
pieces = st.sampled_from([
    "234567890124", "98765 43210", "4111 1111 1111 1111", "a@b", ".com", "@ybl", "ABCPE1234F",
    GSTIN, "SBIN0001234", "123456789", "a/c ", "ref ", "aadhaar ", "Rs ", "call ", "folio ",
    " at gmail.com", "[PHONE]", "[", "]", "1", "23", "-", "+91", "0", "@", ".", "x", " ", "/-",
    "044", "\n", "\u200b", "_", "/", "O", "l", "&#57;", "&commat;", "&amp;", ";", " dot com",
    "[at]",
])
# fmt: on


@settings(steady, max_examples=300)
@given(st.one_of(st.text(), st.lists(pieces, max_size=12).map("".join)))
def test_anonymising_twice_changes_nothing_more(text):
    once = anonymize_query(text)
    assert anonymize_query(once) == once


@steady
@given(st.one_of(st.text(st.characters()), st.lists(pieces, max_size=12).map("".join)))
def test_findings_are_ordered_apart_and_rebuild_the_output(text):
    findings = find_pii(text)
    ends = [0, *(edge for found in findings for edge in (found.start, found.end)), len(text)]
    kept = [text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]
    tags = [f"[{found.kind}]" for found in findings] + [""]
    assert ends == sorted(ends) and all(found.start < found.end for found in findings)
    assert anonymize_query(text) == "".join(a + b for a, b in zip(kept, tags, strict=True))


# --- no pattern is spared that would have matched ---------------------------------


def every_candidate(view: str):
    """All patterns on any text, in the order of `privacy._candidates`."""
    p, spans, checked = privacy, privacy._spans, privacy._checked
    yield from p._gstins(view)
    yield from p._spelt_emails(view)
    yield from p._upis(view)
    yield from spans(view, "EMAIL", p._EMAIL, p._EMAIL_BARE, p._EMAIL_SPELT)
    yield from spans(view, "AADHAAR", p._AADHAAR_WORD)
    yield from p._pans(view)
    yield from spans(view, "", p._REFERENCE, p._FOLIO, p._BANK_CODE)
    yield from p._accounts(view)
    yield from checked(view, "CARD", p._luhn, p._CARD_LONG, p._CARD, p._CARD_BROKEN)
    yield from checked(view, "AADHAAR", p._verhoeff, p._AADHAAR, p._AADHAAR_BROKEN)
    yield from spans(view, "IFSC", p._IFSC, p._IFSC_WORD, p._IFSC_OTHER)
    yield from p._phones(view)
    yield from p._landlines(view)
    yield from spans(view, "PHONE", p._LANDLINE_ABROAD)


def assert_nothing_is_missed(text: str) -> None:
    found = find_pii(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(privacy, "_candidates", every_candidate)
        assert find_pii(text) == found


@pytest.mark.parametrize("text", [text for text, _ in FOUND + ODD] + KEPT)
def test_skipped_patterns_would_have_found_nothing(text):
    assert_nothing_is_missed(text)


# fmt: off
more_pieces = st.one_of(pieces, st.sampled_from([
    "1234", "5", "2 3 4 5", "29", "ABCPE 1234 F", "A B C P E 1 2 3 4 F", "hdfc0cagsbk", "ifsc ",
    "HDFC 0", "₹", "½", "\u0131", "\u017f", "\u212a", " at gma\u0131l dot com", "outlook", "é",
    "६७", "९८७६५", "①", "\x07", "UTR ", "A", "F", "Z",
]))
# fmt: on


@settings(steady, max_examples=600)
@given(st.one_of(st.text(max_size=60), st.lists(more_pieces, max_size=9).map("".join)))
def test_skipped_patterns_would_have_found_nothing_in_random_text(text):
    assert_nothing_is_missed(text)


def test_letters_of_other_cases_are_known():
    taken = {char for char in map(chr, range(128, 0x30000)) if re.match("[a-z]", char, re.I)}
    assert taken == privacy._OTHER_CASES


def test_every_mail_service_has_one_of_the_telling_parts():
    names = privacy._MAILER.removeprefix("(?:").removesuffix(")").split("|")
    assert all(any(part in name for part in privacy._MAILER_PARTS) for name in names)


@pytest.mark.parametrize("text", ["plain ASCII", "₹50 – ½", "a\u200bb ﬁ é", "tab\tbell\x07"])
def test_each_character_of_a_view_comes_from_its_place(text):
    view, index = privacy._view(text)
    folded = "".join(privacy._fold(text[at]) for at in index)
    assert view == folded == "".join(map(privacy._fold, text))


# --- the surface ----------------------------------------------------------------


def test_findings_name_kind_and_place_only():
    assert find_pii("mail a@b.in") == [Finding("EMAIL", 5, 11)]
    assert "a@b" not in repr(find_pii("mail a@b.in"))


@pytest.mark.parametrize("value", [None, 234567890124, b"x", ["x"]])
def test_other_types_are_refused_by_name(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        anonymize_query(value)


@pytest.mark.parametrize("unit", ["7", "@", "a"])
def test_a_megabyte_takes_under_two_seconds(unit):
    started = time.process_time()
    anonymize_query(unit * 1_000_000)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "unit",
    [" ", "a.", "1 ", "2345 ", "aa@bbb", "a@b.c", "aadhaar no ", "rs ", "a dot ", "&#57;", "1_"],
)
def test_repetition_takes_linear_time(unit):
    started = time.process_time()
    anonymize_query(unit * (100_000 // len(unit)))
    assert time.process_time() - started < 2


def test_show_hides_queries_and_nothing_else():
    frame = pd.DataFrame({"id": range(8), "query": ["call 9876543210", None] * 4, "note": "a@b.in"})
    shown = show(frame, rows=2, columns=("query", "absent"))
    assert shown["query"].tolist()[0] == "call [PHONE]" and shown["query"].isna().tolist()[1]
    assert list(shown) == ["query", "note"] and shown["note"].equals(frame["note"].head(2))
    assert "call [PHONE]" in shown._repr_html_()
    assert frame["query"][0] == "call 9876543210"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("http://team:s3cret@mlflow.lan:5000 is down", "http://team:***@mlflow.lan:5000 is down"),
        ("postgresql://u:p@ss@db/mlflow", "postgresql://u:***@db/mlflow"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("http://mlflow.lan:5000/#/models", "http://mlflow.lan:5000/#/models"),
    ],
)
def test_the_password_of_an_address_is_hidden(text, hidden):
    assert hide_password(text) == hidden


def test_a_frame_is_copied_and_numbers_stay():
    frame = pd.DataFrame({"query": pd.Series([9876543210, "a@b.in"], dtype=object), "n": [1.5, 2]})
    clean = show(frame)
    assert clean["query"].tolist() == [9876543210, "[EMAIL]"]
    assert frame["query"][1] == "a@b.in"
    assert clean["n"].equals(frame["n"]) and clean.dtypes.equals(frame.dtypes)


def test_importing_privacy_loads_no_heavy_library():
    code = (
        "import sys, nivesh_lib.privacy; print({'pandas', 'IPython', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
