"""Random English sentences from a small grammar, for the synthetic demo corpus."""

import numpy as np

MIN_WORDS, MAX_WORDS = 4, 9

# No noun or adjective begins with a vowel: "A" must not become "AN".
WORDS = {
    "det": "A THE MY YOUR OUR HIS HER EVERY",
    "adjective": "BIG BLACK BLUE BROKEN CHEAP CLEAN COLD DARK GREEN HAPPY HEAVY LITTLE"
    " NEW QUIET RED ROUND STRONG YELLOW",
    "person": "BOY BROTHER CAT DOCTOR DOG DRIVER FARMER GIRL HORSE KING MOTHER QUEEN"
    " SAILOR TEACHER",
    "thing": "BASKET BOOK BOTTLE CANDLE CHAIR CLOCK COAT FLOWER HAMMER KEY LAMP LETTER"
    " MIRROR PENCIL SHIP STONE",
    "place": "BRIDGE CASTLE CHURCH CITY FOREST GARDEN HOUSE KITCHEN MARKET RIVER"
    " SCHOOL STATION",
    "takes": "BOUGHT BROKE CARRIED CLEANED DREW DROPPED FOUND HID LIKED LOST MOVED"
    " PAINTED PUSHED SAW SOLD TOOK",
    "acts": "CRIED DANCED LAUGHED RESTED SANG SAT SLEPT STOOD TALKED WAITED",
    "adverb": "AGAIN ALONE CAREFULLY LOUDLY OFTEN QUICKLY SLOWLY SUDDENLY",
    "where": "BEHIND BESIDE INSIDE NEAR OUTSIDE UNDER",
    "number": "TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN",
}
CLASSES = {name: tuple(words.split()) for name, words in WORDS.items()}
CLASSES["things"] = tuple(f"{word}S" for word in CLASSES["thing"])
CLASSES["when"] = (
    "LAST WEEK",
    "LAST SUMMER",
    "THIS MORNING",
    "ON MONDAY",
    "ON SUNDAY",
    "YESTERDAY",
)

# A class with "?" is optional: it is left out with probability 0.5.
FORMS = tuple(
    tuple(form.split())
    for form in (
        "det adjective? person takes det adjective? thing",
        "det adjective? person takes det thing where det adjective? place",
        "det adjective? person takes number adjective? things when?",
        "when det adjective? person takes det adjective? thing",
        "when det person acts adverb? where det adjective? place",
        "det adjective? person acts adverb",
        "det adjective? person acts where det place when?",
        "number adjective? things stood where det adjective? place",
    )
)


def vocabulary() -> set[str]:
    """Return every word that can occur in a sentence."""
    phrases = [phrase for phrases in CLASSES.values() for phrase in phrases]
    return {word for phrase in phrases for word in phrase.split()}


def random_sentence(rng: np.random.Generator) -> str:
    """Draw a sentence.

    Args:
        rng: Random number generator.

    Returns:
        MIN_WORDS to MAX_WORDS words in upper case, without punctuation.
    """
    while True:
        phrases = []
        for slot in FORMS[rng.integers(len(FORMS))]:
            if slot.endswith("?") and rng.random() < 0.5:
                continue
            # A slot that is not a class is a word.
            choices = CLASSES.get(slot.rstrip("?"), (slot.upper(),))
            phrases.append(choices[rng.integers(len(choices))])
        sentence = " ".join(phrases)
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
            return sentence
