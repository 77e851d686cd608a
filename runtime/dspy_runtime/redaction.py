"""Words without keys: by the patterns of those that have one, else by their randomness."""

from __future__ import annotations

import math
import re
from collections import Counter

_NAMED = r"(sk|key|token|bearer|secret|password)[-_ =:][\w.-]{6,}"
_KNOWN = r"(AIza|AKIA|ASIA)[\w-]{8,}|gh[a-z]_\w{8,}"
_KEYS = re.compile(f"{_NAMED}|{_KNOWN}", re.IGNORECASE)
_PASSWORDS = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_WORDS = re.compile(r"[A-Za-z0-9+/]{20,}={0,2}")
_RANDOM_BITS = 3.5
"""Bits a character above which a long word of letters and digits is no word of anybody's."""
_VARIABLE = re.compile(r"[A-Z_]+")
"""The name of a variable, such as AWS_SECRET_ACCESS_KEY, is no key."""
_HEX = re.compile(r"[0-9a-f]{32,}", re.IGNORECASE)
"""Keys of Azure, which are less random than their letters could be."""


def without_keys(words: str) -> str:
    """Words without what is, or looks like, a key: by the patterns of those that have one, else by its randomness."""
    words = _PASSWORDS.sub(r"\1[redacted]@", words)
    words = _KEYS.sub(lambda found: found[0] if _VARIABLE.fullmatch(found[0]) else "[redacted]", words)
    return _WORDS.sub(lambda found: "[redacted]" if _is_random(found[0]) else found[0], words)


def _is_random(word: str) -> bool:
    if not (re.search(r"\d", word) and re.search(r"[A-Za-z]", word)):
        return False
    if _HEX.fullmatch(word):
        return True
    shares = [count / len(word) for count in Counter(word).values()]
    return -sum(share * math.log2(share) for share in shares) > _RANDOM_BITS
