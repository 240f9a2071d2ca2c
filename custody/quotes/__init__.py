"""Oracle quotes: what a buyer pays in tokens for a price in another currency (``ORACLE_QUOTING_ENABLED``, facts §7).

Pure rules first (``arithmetic``, ``prices``, ``deciding``), sources and rows at the edge; docs/quotes.md.
"""

from custody.quotes.arithmetic import QuoteRefused, Settlement, settle
from custody.quotes.deciding import Bounds, PriceJumped, Quote, Wanted, decide
from custody.quotes.prices import PAIRS, Answer, Price, PriceSource, Unusable
from custody.quotes.verdicts import QuoteStory, StoredQuote, Verdict, judge_paid, quote_of

__all__ = [
    "PAIRS",
    "Answer",
    "Bounds",
    "Price",
    "PriceJumped",
    "PriceSource",
    "Quote",
    "QuoteRefused",
    "QuoteStory",
    "Settlement",
    "StoredQuote",
    "Unusable",
    "Verdict",
    "Wanted",
    "decide",
    "judge_paid",
    "quote_of",
    "settle",
]
