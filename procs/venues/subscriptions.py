"""What was asked of a venue's sockets, and what became of it.

A venue may refuse a subscription and go on sending heartbeats, so silence proves nothing: what is not accepted has to
be looked for. A request is for channels of symbols; each of them is pending until its answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Wanted(NamedTuple):
    """One channel of one symbol, as the venue spells them."""

    channel: str
    symbol: str


class Answer(NamedTuple):
    """What a frame says of subscriptions."""

    wanted: tuple[Wanted, ...]  # empty: the venue does not say which
    accepted: bool
    reason: str  # of a refusal, in the venue's words


@dataclass
class Subscriptions:
    """The requests of one connection. A new connection starts with a new one of these."""

    pending: set[Wanted] = field(default_factory=set)
    accepted: set[Wanted] = field(default_factory=set)
    refused: dict[Wanted, str] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)  # refusals that do not say of what

    def ask(self, wanted: Iterable[Wanted]) -> None:
        """Note what a request asks for. What was refused before may be asked for again."""
        for item in wanted:
            self.pending.add(item)
            self.refused.pop(item, None)

    def take(self, answer: Answer | None) -> None:
        """Take the answer that a frame held, if any. A later answer to the same item replaces an earlier one."""
        if answer is None:
            return
        if not answer.wanted and not answer.accepted:
            self.unexplained.append(answer.reason)
        for item in answer.wanted:
            self.pending.discard(item)
            if answer.accepted:
                self.accepted.add(item)
                self.refused.pop(item, None)
            else:
                self.accepted.discard(item)
                self.refused[item] = answer.reason

    def complete(self) -> bool:
        """True when everything that was asked for was accepted."""
        return not self.pending and not self.refused and not self.unexplained
