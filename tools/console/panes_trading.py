"""Panes on the market and the account: ladder and tape, positions, orders, fills. Pure, as in panes.py."""

from __future__ import annotations

from decimal import Decimal

from tools.console.canvas import (
    BAD,
    BUY,
    GOOD,
    SELL,
    TITLE,
    Drawn,
    Line,
    Style,
    bar,
    beside,
    clock,
    columns,
    count,
    duration,
    fit,
    line,
    lines_of,
)
from tools.console.lists import Lists, mark, shares
from tools.console.snapshot import Account, Fill, Level, Market, Order, Position, Snapshot, Trade

_WIDEST_LADDER = 72
_REFUSALS = ("unknown", "rejected", "denied")
_POSITION_WIDTHS = (11, -13, -12, -12, -9, -9, -8)


def money(text: str) -> str:
    """An amount with two decimals; '-' for none."""
    return f"{Decimal(text):.2f}" if text else "-"


def _signed(text: str) -> str:
    """An amount with two decimals and always a sign."""
    return f"{Decimal(text):+.2f}" if text else "-"


def _side(side: int) -> str:
    return "buy" if side > 0 else "sell" if side < 0 else "-"


def _level(item: Level, side: int, width: int) -> Line:
    own = f"*{item.own}" if item.own else ""
    text = columns([own, "+" if side > 0 else "-", item.price, item.size], [3, 1, -14, -12])[0][0]
    return (
        (text + " ", (BUY if side > 0 else SELL) | (Style.BOLD if item.own else Style.PLAIN)),
        (bar(item.part, max(width - len(text) - 1, 4)), BUY if side > 0 else SELL),
    )


def _ladder(market: Market, width: int, half: int, rows: int, scroll: int) -> list[Line]:
    """`half` asks above, bids below in the other rows, best in the middle; scroll: so many levels away from there."""
    asks = market.asks[min(scroll, max(len(market.asks) - half, 0)) :][:half]
    for_bids = rows - half - 1
    bids = market.bids[min(scroll, max(len(market.bids) - for_bids, 0)) :][:for_bids]
    lines: list[Line] = [()] * (half - len(asks))
    lines += [_level(item, -1, width) for item in reversed(asks)]
    middle = f"spread {market.spread}" if market.spread else "one side is empty"
    lines.append(line(fit(f"    {middle}  book {market.book or 'not known'}", width), Style.BOLD))
    lines += [_level(item, 1, width) for item in bids]
    return lines


def _trade(item: Trade) -> Line:
    sign, style = {1: ("+", BUY), -1: ("-", SELL)}.get(item.side, (" ", Style.PLAIN))
    return columns([clock(item.at_ns, 3), sign, item.price, item.size], [12, 1, -11, -9], style)


def market_pane(snapshot: Snapshot, width: int, height: int, scroll: int) -> Drawn:
    """Book ladder and tape of the chosen symbol."""
    market = snapshot.market
    if market is None:
        return Drawn([line(" reading the market")])
    tape_width = 36
    left = min(max(width - tape_width - 2, 36), _WIDEST_LADDER)
    valid = market.book == "VALID"
    lines: list[Line] = [(
        (fit(f" {market.symbol}  book {market.book or 'not known'}", left) + "  ", TITLE | (GOOD if valid else BAD)),
        (fit(f"tape ({count(market.missed)} records missed)" if market.missed else "tape", tape_width), TITLE),
    )]
    lines.append((
        (columns(["own", "", "price", "size"], [3, 1, -14, -12])[0][0].ljust(left + 2), Style.BOLD),
        (columns(["time UTC", "", "price", "size"], [12, 1, -11, -9])[0][0], Style.BOLD),
    ))
    trades, rows = market.trades, height - len(lines)
    half = max((rows - 1) // 2, 1)
    if len(market.asks) > half or len(market.bids) > rows - half - 1 or len(trades) > rows:
        rows -= 1  # for the mark
        half = max((rows - 1) // 2, 1)
    hidden = max(len(market.asks) - half, len(market.bids) - (rows - half - 1), len(trades) - rows, 0)
    scroll = min(scroll, hidden)
    at = min(scroll, max(len(trades) - rows, 0))
    lines += beside(_ladder(market, left, half, rows, scroll), [_trade(item) for item in trades[at : at + rows]], left)
    if hidden:
        lines += [()] * (height - 1 - len(lines))
        lines.append(mark(hidden - scroll, scroll, back="nearer, newer"))
    return Drawn(lines, hidden, half)


def _position(item: Position) -> Line:
    cells = [
        " " + item.symbol, item.size, item.entry or "flat", item.price or "-", _signed(item.unrealised),
        _signed(item.realised), money(item.fees),
    ]
    return columns(cells, _POSITION_WIDTHS)


def _order(item: Order) -> Line:
    cells = [
        f" {item.order_id}", item.symbol, _side(item.side), item.price, item.size, item.filled,
        item.status.lower().replace("partially_", "part ").replace("_", " "),
        duration(item.age_ns),
    ]
    style = BAD if item.status == "UNKNOWN" else BUY if item.side > 0 else SELL
    return columns(cells, [8, 10, 4, -12, -10, -9, 14, -6], style)


def _fill(item: Fill) -> Line:
    cells = [
        " " + clock(item.at_ns, 3), str(item.order_id), item.symbol, _side(item.side), item.price, item.size,
        f"{Decimal(item.fee):.4f}", "maker" if item.maker else "taker",
    ]
    return columns(cells, [13, 7, 11, 4, -11, -9, -9, 5], BUY if item.side > 0 else SELL)


def _in_doubt(item: Order) -> bool:
    """Whether nobody knows what became of an order."""
    return item.status == "UNKNOWN"


def _sums(account: Account, width: int) -> list[Line]:
    """Money and counters of everything together, and what is wrong with it."""
    pnl = {key: account.pnl.get(key, "0") for key in ("realised", "unrealised", "fees", "funding")}
    net = sum((Decimal(pnl[key]) for key in ("realised", "unrealised", "funding")), -Decimal(pnl["fees"]))
    counts = account.counts
    lines = lines_of(
        f" net {net:+.2f} = realised {_signed(pnl['realised'])}, unrealised {_signed(pnl['unrealised'])}, "
        f"fees {money(pnl['fees'])}, funding {_signed(pnl['funding'])}", width, Style.BOLD,
    )
    orders = ", ".join(f"{count(counts.get(key, 0))} {key}" for key in ("sent", "filled", "cancelled"))
    lines += lines_of(f" cash {money(account.cash)}   fills {count(counts.get('fills', 0))}   orders {orders}", width)
    if refused := ", ".join(f"{count(counts[key])} {key}" for key in _REFUSALS if counts.get(key)):
        lines.append(line(f" orders refused or in doubt, ever: {refused}"))
    if account.faults:
        failed = ", ".join(f"{name} {count(number)}" for name, number in account.faults.items())
        lines += lines_of(f"!faults of strategies, which lost their quotes for them: {failed}", width, BAD)
    if account.holding:
        lines += lines_of(f"!HOLDING, no entries: ledger and venue differ in {account.holding}", width, BAD)
    return lines


def trading_pane(snapshot: Snapshot, width: int, height: int, scroll: int) -> Drawn:
    """Positions, profit, orders and fills. Where there is no room, open positions and orders in doubt come first."""
    account = snapshot.account
    sums = _sums(account, width)
    lists = Lists(scroll)
    positions, orders, fills = account.positions, account.orders, account.fills
    for_positions, for_orders, for_fills = shares(
        height - len(sums) - 3, [max(len(items), 1) for items in (positions, orders, fills)]
    )
    heading = f" order ({len(orders)} open)" if len(orders) > for_orders else " order"
    return lists.drawn([
        columns([" position", "size", "entry", "price", "unreal.", "realised", "fees"], _POSITION_WIDTHS, TITLE),
        *(lists.rows(positions, for_positions, _position, lambda item: bool(item.entry))),
        *sums,
        columns(
            [heading[:18], "side", "price", "size", "filled", "state", "age"], [19, 4, -12, -10, -9, 14, -6], TITLE
        ),
        *(lists.rows(orders, for_orders, _order, _in_doubt) or [line(" none is open")]),
        columns(
            [" fill", "order", "symbol", "side", "price", "size", "fee", "as"], [13, 7, 11, 4, -11, -9, -9, 5], TITLE
        ),
        *(lists.rows(fills, for_fills, _fill, lambda item: False) or [line(" none yet")]),
    ])
