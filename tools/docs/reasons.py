"""docs/reference/reasons.md: every reason code, from engine/reason_guide.py."""

from __future__ import annotations

from engine.reason_guide import GUIDE
from engine.reasons import Reason
from tools.docs.markdown import code, table
from tools.docs.source_text import MissingText

_HEAD = """# Reasons: why something was refused

Every refusal, drop and denial is counted under one of these. Where to find them: `quarantined` and `dropped` of each
stage, `orders.denied` and `orders.rejected_by` in the summary; the book's word in `bot4 status`, and `aux` of
BOOK_INVALID; `reason` in `fills.jsonl`, and of REPORT records; frames and records themselves with `bot4 data
quarantine --reason R`.
"""


def page() -> str:
    """The whole page. Raises MissingText for a reason without an entry in the guide."""
    missing = [reason.name for reason in Reason if reason not in GUIDE]
    if missing:
        raise MissingText(f"engine/reason_guide.py: no entry for {', '.join(missing)}")
    rows = (
        (str(int(reason)), code(reason.name), ", ".join(guide.givers), guide.meaning, guide.remedy)
        for reason, guide in sorted(GUIDE.items())
    )
    return _HEAD + "\n" + table(("number", "reason", "given by", "what it means", "what to do"), rows)
