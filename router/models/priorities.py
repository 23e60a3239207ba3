"""How urgent work is: a word in the configuration, a number in the rows, the smaller first."""

from django.db import models


class Priority(models.IntegerChoices):
    """The priority of a job and of its items."""

    URGENT = 1, "Urgent"
    NORMAL = 2, "Normal"
    LOW = 3, "Low"

    @classmethod
    def of(cls, word: object) -> "Priority":
        """Return the priority of a word of the configuration; no word is normal."""
        return cls[str(word).upper()] if word else cls.NORMAL
