"""The nearest and a random other user of a shard.

The server has a neighbor index of its own, over newest engagements. This one compares all answers, so that the control
arms C1 and C3 get the most similar user.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from mindprint.datasets import UserDataset

_WORD = re.compile(r"\w+")


def find_other_users(users: Sequence[UserDataset], seed: int) -> dict[str, Mapping[str, str]]:
    """Choose a nearest and a random other user for each user.

    The nearest user gives the most similar answers to the most similar questions: cosine over TF-IDF of words paired
    with answers. Both are the same user only if there are two users in all.

    Returns:
        By user id, a mapping from `nearest` and `random` to a user id; empty for a single user.
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
