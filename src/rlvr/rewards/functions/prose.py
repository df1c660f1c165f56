"""Rewards for the style of a completion: repetition, language, readability."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from itertools import groupby

from rlvr.rewards.sample import Sample

LONGEST = 100_000  # characters of a text that are read
LONG_WORD, LONGEST_WORD, LONGEST_RUN = (
    20,
    30,
    60,
)  # characters of one word, of letters in a row, of a text without spaces
MOST_BREAKS = 3  # in a row; more line breaks pad a text
FEW_WORDS, EXPECTED = 3, 0.1  # words from which on a share of frequent ones is expected
DENSE = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}

# Unicode's names of scripts, and frequent words that few of the other languages in the same script share.
SCRIPTS = {
    "en": ("LATIN",), "de": ("LATIN",), "fr": ("LATIN",), "es": ("LATIN",), "it": ("LATIN",), "pt": ("LATIN",),
    "nl": ("LATIN",), "pl": ("LATIN",), "sv": ("LATIN",), "ru": ("CYRILLIC",), "uk": ("CYRILLIC",), "el": ("GREEK",),
    "ar": ("ARABIC",), "he": ("HEBREW",), "hi": ("DEVANAGARI",), "th": ("THAI",), "ko": ("HANGUL",),
    "zh": ("CJK",), "ja": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
}  # fmt: skip
STOP_WORDS = {
    "en": "the of and to is that it for was with are be this have from or which you were their has we she been so by "
    "at if then each there not but can how many all his her more than one two three four five ten times gives left",
    "de": "der die und das den ist nicht ein eine zu mit von auf sich dem auch wir sind wird haben aber wenn oder",
    "fr": "le les des est une dans pour pas vous sur avec au sont nous mais cette elle être ont aux donc ou du il",
    "es": "el los las una por con para es del como pero sus este más muy hay son está entonces también y lo",
    "it": "il di che è per non della sono una gli nel anche più dei alla questo con ma ha perché quindi lo le",
    "pt": "o os as um uma não para com em do da dos mais mas foi ele são seu ao pelo isso então também você",
    "nl": "het een van en dat niet zijn voor met op aan er maar om ook als dan wordt bij naar deze we ze",
    "pl": "i w nie na się że z do to jest jak ale po co tak czy przez dla od za są więc oraz tylko",
    "sv": "och att det som en på är av för inte den till med om har var jag ett men vi så från eller",
    "ru": "и в не на что он с как это по но они мы все так же от бы за было для или она если",
    "uk": "і в не на що він з як це та але вони ми від за було для або вона якщо до є у ці",
}

_WORD = re.compile(r"[^\W\d_]{2,}(?:['’][^\W\d_]+)?")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_BETWEEN = re.compile(r"\s+|\S+")
_BREAK = re.compile(r"[\n\r\v\f\x85\u2028\u2029]")
_PART = re.compile(r"\w+|\W")
_SENTENCE = re.compile(r"[.!?…]+(?=\s|$)|\n{2,}")
_VOWELS = re.compile(r"[aeiouyàáâäãåèéêëìíîïòóôöõùúûüýÿæœø]+")


def repetition(sample: Sample, *, words: int, points: float) -> float:
    """`points` (a penalty is negative) times 1 − distinct / all, over the runs of `words` words in the completion.

    0 for fewer words than that. Case is ignored. So is white space, but each line break after three in a row, and each
    other blank after 60, is a word. A character of a script without spaces (Chinese, Thai …) is a word; so
    is each part of a text of over 60 characters without a space, and each character of a part of over 30. Source: the
    repetition penalty of Yeo et al., Demystifying Long Chain-of-Thought Reasoning in LLMs (arXiv 2502.03373).
    """
    tokens = _units(sample.completion.text[:LONGEST].casefold())
    runs = list(zip(*(tokens[i:] for i in range(words)), strict=False))
    return points * (1 - len(set(runs)) / len(runs)) if runs else 0.0


def language_consistency(sample: Sample, *, language: str, points: float) -> float | None:
    """`points` times the share of the completion's words in `language`, without the tags; None without words.

    share = in script / words × own / (own + other) × min(1, (own + ¼) / (expected + ¼)). `own` counts frequent words of
    the language, `other` frequent words of other languages in the same script, without words of both; the first factor
    is 1 if both are 0. `expected` is a tenth of the words in script: running text has more. For up to three words, and
    for a script of one language here, there is no last factor. Two characters of a script without spaces are a word.
    LaTeX commands do not count. It uses profiles of scripts and frequent words, and no language model. `language` is
    one of ar, de, el, en, es, fr, he, hi, it, ja, ko, nl, pl, pt, ru, sv, th, uk, zh. Source: the language consistency
    reward of DeepSeek-R1 (arXiv 2501.12948).
    """
    words = Counter(_words(sample))
    total = sum(count * _weight(word) for word, count in words.items())
    if not total:
        return None
    in_script = sum(count * _weight(word) for word, count in words.items() if _script(word[0]) in SCRIPTS[language])
    own = sum(words[word] for word in _frequent(language))
    other = sum(words[word] for word in _foreign(language))
    share = points * in_script / total * (own / (own + other) if own + other else 1.0)
    is_enough = in_script > FEW_WORDS and language in STOP_WORDS
    return share * min(1.0, (own + 0.25) / (EXPECTED * in_script + 0.25)) if is_enough else share


def readability(sample: Sample, *, easiest: float, hardest: float, points: float) -> float | None:
    """`points` if the answer's reading ease is between `hardest` and `easiest`, falling to 0 at 50 beyond either.

    ease = 206.835 − 1.015 · words / sentences − 84.6 · syllables / words: 60 to 70 is plain English, 30 is hard, 90
    very easy. A syllable is a group of vowels without a silent final e, so a word may be off by one. English only.
    None for an answer without words. Source: Flesch, A new readability yardstick (1948).
    """
    text = (sample.reading.tagged or "")[:LONGEST].lower()
    words = _WORD.findall(text)
    if not words:
        return None
    sentences = max(1, sum(1 for part in _SENTENCE.split(text) if _WORD.search(part)))
    ease = 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)
    beyond = max(ease - easiest, hardest - ease, 0.0)
    return points * max(0.0, 1 - beyond / 50)


def syllables(word: str) -> int:
    """The number of vowel groups, at least one. A final e is silent after a consonant, except in `le`."""
    groups = len(_VOWELS.findall(word))
    is_silent = word.endswith("e") and not word.endswith("le") and word[-2:-1] not in "aeiouy"
    return max(1, groups - is_silent)


def count_words(text: str) -> int:
    """Words between white space; two characters of a script without spaces are one, and so are 20 of a longer word."""
    count = 0
    for word in text.split():
        dense = sum(map(_is_dense, word))
        count += -(-dense // 2) + -(-(len(word) - dense) // LONG_WORD)
    return count


def _units(text: str) -> list[str]:
    units: list[str] = []
    for word in _BETWEEN.findall(text):
        if word.isspace():
            lines = len(_BREAK.findall(word))
            units += ["\n"] * (max(0, lines - MOST_BREAKS) + max(0, len(word) - lines - LONGEST_RUN))
            continue
        if len(word) <= LONGEST_RUN and not any(map(_is_dense, word)):
            units.append(word)
            continue
        for part in _PART.findall(word):
            is_word = len(part) <= LONGEST_WORD and not any(map(_is_dense, part))
            units += [part] if is_word else part
    return units


def _words(sample: Sample) -> list[str]:
    """Words of two letters or more in lower case and in one script, without tags and LaTeX commands."""
    text = sample.completion.text[:LONGEST]
    for mark in sample.tags.marks():
        text = text.replace(mark, " ")
    words = _WORD.findall(_COMMAND.sub(" ", text).casefold())
    parts = ("".join(part) for word in words for _, part in groupby(word, _is_dense))
    return [part for part in parts if len(part) > 1 or _is_dense(part)]


def _weight(word: str) -> float:
    """How many words `word` is: a run of a script without spaces is many."""
    return max(1.0, len(word) / 2) if _is_dense(word[0]) else 1.0


def _is_dense(letter: str) -> bool:
    """Whether the letter is of a script that is written without spaces."""
    return letter > "\u0e00" and _script(letter) in DENSE


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


@lru_cache
def _frequent(language: str) -> frozenset[str]:
    return frozenset(STOP_WORDS.get(language, "").split())


@lru_cache
def _foreign(language: str) -> frozenset[str]:
    others = (other for other in STOP_WORDS if other != language and SCRIPTS[other] == SCRIPTS[language])
    return frozenset(word for other in others for word in STOP_WORDS[other].split()) - _frequent(language)
