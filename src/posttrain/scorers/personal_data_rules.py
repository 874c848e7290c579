"""Finding personal data and secrets in a text with maintained recognisers that need no model and no network.

`phonenumbers` (Google's libphonenumber) finds telephone numbers, `python-stdnum` checks the digits of bank accounts and
national numbers, `detect-secrets` (Yelp) knows the shapes of keys and tokens. They come with the extra `privacy` and
are imported when first asked. A text is read in overlapping windows, so that no pattern's cost grows faster than it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import ipaddress
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

WINDOW_CHARACTERS = 1_000
OVERLAP_CHARACTERS = 250

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@((?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![\w-])")
_RESERVED_DOMAIN = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net))?|test|invalid|localhost)$", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]?\d)")
_CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]\d|\d)")
_CARD_ISSUER = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|4[4-9]\d|5\d\d)\d{12}|35\d{14}|3[068]\d{12}"
)
_TEST_CARDS = {"4111111111111111", "4242424242424242", "5555555555554444", "378282246310005", "6011111111111117"}
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_NATIONAL = {
    "us.ssn": re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"),
    "br.cpf": re.compile(r"(?<!\w)\d{3}\.\d{3}\.\d{3}-\d{2}(?!\w)"),
    "es.dni": re.compile(r"(?<!\w)\d{8}-?[A-Z](?!\w)"),
    "fr.nir": re.compile(r"(?<!\w)[12] ?\d{2} ?\d{2} ?\d{2} ?\d{3} ?\d{3} ?\d{2}(?!\w)"),
    "it.codicefiscale": re.compile(r"(?<!\w)[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z](?!\w)"),
    "in_.aadhaar": re.compile(r"(?<!\w)\d{4} \d{4} \d{4}(?! ?\d)"),
}
"""Formats that are distinctive enough to be looked for without a word beside them; `stdnum` checks their digits."""
_MORE_SECRETS = {
    "openai_token": re.compile(r"(?<!\w)sk-(?:proj|svcacct|admin)-[\w-]{40,200}"),
    "anthropic_token": re.compile(r"(?<!\w)sk-ant-[\w-]{40,200}"),
    "hugging_face_token": re.compile(r"(?<!\w)hf_[A-Za-z0-9]{34,64}(?!\w)"),
    "google_api_key": re.compile(r"(?<!\w)AIza[\w-]{35}(?!\w)"),
    "github_token": re.compile(r"(?<!\w)github_pat_\w{60,100}(?!\w)"),
}
"""Tokens that services began to issue after the detectors of `detect-secrets` 1.5 were written."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A span of a text that holds personal data or a secret.

    Made by `find_personal_data`; read by scorers, which show the kind and the place, never the text.
    Example: `Finding(10, 25, "email")`.
    """

    start: int
    end: int
    kind: str


def find_personal_data(text: str, *, phone_region: str | None = None, ignores_examples: bool = True) -> list[Finding]:
    """Return what was found, in the order of the text; of overlapping spans the more specific kind is kept.

    Args:
        text: Any text.
        phone_region: A country code (`US`) whose numbers are found without their `+1`; None finds international ones.
        ignores_examples: Whether reserved names and numbers (example.com, 10.0.0.1, 555-0100, test cards, keys that
            say EXAMPLE) are left out.

    Raises:
        ImportError: The extra `privacy` is not installed.
    """
    kept: list[Finding] = []
    finders: tuple[Callable[[str], Iterator[Finding]], ...] = (
        _find_secrets,
        lambda window: _find_emails(window, ignores_examples),
        lambda window: _find_accounts(window, ignores_examples),
        lambda window: _find_addresses(window, ignores_examples),
        lambda window: _find_phones(window, phone_region, ignores_examples),
    )
    taken = bytearray(len(text))
    for find in finders:
        for offset, window in _list_windows(text):
            is_last = offset + len(window) == len(text)
            for found in find(window):
                # A match at a window's edge may be a piece of a longer one, which the window beside it holds whole.
                if (found.start == 0 and offset) or (found.end == len(window) and not is_last):
                    continue
                start, end = found.start + offset, found.end + offset
                is_example = ignores_examples and "example" in text[start:end].lower()
                if not is_example and not any(taken[start:end]):
                    taken[start:end] = b"\x01" * (end - start)
                    kept.append(Finding(start, end, found.kind))
    return sorted(kept)


def _list_windows(text: str) -> Iterator[tuple[int, str]]:
    step = WINDOW_CHARACTERS - OVERLAP_CHARACTERS
    for offset in range(0, max(1, len(text) - OVERLAP_CHARACTERS), step):
        yield offset, text[offset : offset + WINDOW_CHARACTERS]


def _find_secrets(window: str) -> Iterator[Finding]:
    for kind, patterns in _load_detectors():
        for pattern in patterns:
            for match in pattern.finditer(window):
                yield Finding(match.start(), match.end(), kind)


@functools.cache
def _load_detectors() -> tuple[tuple[str, tuple[re.Pattern[str], ...]], ...]:
    """Return the patterns of the detectors that know a shape; those that guess by entropy or keyword are left out."""
    import detect_secrets.plugins
    from detect_secrets.plugins.base import RegexBasedDetector

    found = [(kind, (pattern,)) for kind, pattern in _MORE_SECRETS.items()]
    for module in pkgutil.iter_modules(detect_secrets.plugins.__path__):
        for kind in vars(importlib.import_module(f"detect_secrets.plugins.{module.name}")).values():
            is_detector = isinstance(kind, type) and issubclass(kind, RegexBasedDetector)
            if is_detector and not inspect.isabstract(kind) and kind.__module__.endswith(f".{module.name}"):
                detector = kind()
                if module.name != "ip_public":
                    kind_name = str(detector.secret_type).lower().replace(" ", "_")
                    found.append((kind_name, tuple(detector.denylist)))
    return tuple(found)


def _find_emails(window: str, ignores_examples: bool) -> Iterator[Finding]:
    for match in _EMAIL.finditer(window):
        if not (ignores_examples and _RESERVED_DOMAIN.search(match[1])):
            yield Finding(match.start(), match.end(), "email")


def _find_accounts(window: str, ignores_examples: bool) -> Iterator[Finding]:
    from stdnum import iban, luhn

    for match in _IBAN.finditer(window):
        number = match[0]
        while number and not iban.is_valid(number):  # a capital word may stand behind it
            number = number.rpartition(" ")[0]
        if number:
            yield Finding(match.start(), match.start() + len(number), "bank_account")
    for match in _CARD.finditer(window):
        digits = re.sub(r"[ -]", "", match[0])
        is_test = ignores_examples and digits in _TEST_CARDS
        if _CARD_ISSUER.fullmatch(digits) and luhn.is_valid(digits) and not is_test:
            yield Finding(match.start(), match.end(), "card_number")
    for name, pattern in _NATIONAL.items():
        checker: Any = importlib.import_module(f"stdnum.{name}")
        for match in pattern.finditer(window):
            if checker.is_valid(match[0]):
                yield Finding(match.start(), match.end(), f"national_number:{name.replace('_', '')}")


def _find_addresses(window: str, ignores_examples: bool) -> Iterator[Finding]:
    for match in _IPV4.finditer(window):
        try:
            address = ipaddress.IPv4Address(match[0])
        except ipaddress.AddressValueError:
            continue
        if address.is_global or not ignores_examples:
            yield Finding(match.start(), match.end(), "ip_address")


def _find_phones(window: str, region: str | None, ignores_examples: bool) -> Iterator[Finding]:
    import phonenumbers

    for match in phonenumbers.PhoneNumberMatcher(window, region):
        is_fiction = match.number.country_code == 1 and str(match.number.national_number)[3:8] == "55501"
        if not (ignores_examples and is_fiction):
            yield Finding(match.start, match.end, "phone_number")
