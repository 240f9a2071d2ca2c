"""Agreement: whether MongoDB and Postgres hold the same, field by field of the mapping, and what is done where not."""

from custody.mirror.agreement.keeping import Standing, standings
from custody.mirror.agreement.looking import said
from custody.mirror.agreement.verifying import Outcome, verify

__all__ = ["Outcome", "Standing", "said", "standings", "verify"]
