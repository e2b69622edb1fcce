"""Which other user is the nearest, and a random one. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from mindprint.datasets import UserDataset

_WORD = re.compile(r"\w+")


def find_other_users(users: Sequence[UserDataset], seed: int) -> dict[str, Mapping[str, str]]:
    """For each user `nearest` and `random` among the rest, as far as there are any; they differ where they can.

    The nearest gives the likest answers to the likest questions: cosine over TF-IDF of words next to answers.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    if len(users) < 2:
        return {user.user_id: {} for user in users}
    vectors = TfidfVectorizer(analyzer=_answered, sublinear_tf=True).fit_transform(users)
    alike = cosine_similarity(vectors)
    found: dict[str, Mapping[str, str]] = {}
    for place, user in enumerate(users):
        rest = [n for n in range(len(users)) if n != place]
        nearest = max(rest, key=lambda n: (alike[place][n], users[n].user_id))
        far = [n for n in rest if n != nearest]
        random_one = random.Random(f"{seed}/{user.user_id}").choice(far) if far else nearest
        found[user.user_id] = {"nearest": users[nearest].user_id, "random": users[random_one].user_id}
    return found


def _answered(user: UserDataset) -> list[str]:
    return [
        f"{word}={e.response}" if e.choices else word
        for e in user.engagements
        for word in set(_WORD.findall((e.prompt if e.choices else e.response).lower()))
    ]
