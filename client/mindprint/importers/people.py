"""Tell authors from nobody: deleted and anonymous accounts, and bots that say so.

Many people share such a name. As one user they would get one memory and one adapter.
"""

from __future__ import annotations

import re

NOBODY = "author is deleted, anonymous or a bot"
"""Why a row of nobody is left out."""
_NAMES = frozenset(
    {
        *("deleted", "deleteduser", "deletedaccount", "removed", "removeduser", "suspended", "suspendeduser"),
        *("redacted", "formeruser", "unknown", "unknownuser", "anonymous", "anonymoususer", "anonymouscoward"),
        *("anon", "anonuser", "guest", "guestuser", "nobody", "none", "null", "nil", "nan", "undefined"),
        *("accountdeleted", "userdeleted", "accountremoved", "deletedmember", "formermember", "deactivateduser"),
        *("deactivatedaccount", "withheld", "unspecified", "ghost"),  # GitHub's deleted users
        *("automoderator", "automod", "deltabot", "remindmebot", "sneakpeekbot", "wikitextbot", "autotldr"),
    }
)
_NO_VALUE = ("n/a", "#n/a")
_BRACKETS = "[](){}<>"
_BOT = re.compile(r"\[bot\]$", re.IGNORECASE)
"""How GitHub marks bots."""
_PREFIX = re.compile(r"^(?:/?u(?:ser)?/|@)", re.IGNORECASE)
_OLD_DISCORD_NUMBER = re.compile(r"#0000$")


def is_nobody(name: str) -> bool:
    """Return whether a name stands for no single person: empty, `[deleted]`, `anonymous`, `***`, `AutoModerator`."""
    plain = _OLD_DISCORD_NUMBER.sub("", _PREFIX.sub("", name.strip()))
    if _BOT.search(plain):
        return True
    if plain.casefold() in _NO_VALUE:
        return True
    words = re.sub(r"[\s_./*?-]+", "", plain.strip(_BRACKETS)).casefold()
    return not words or words in _NAMES
