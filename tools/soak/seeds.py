"""Made frames of every wire format, one of each kind at least: what coverage-guided fuzzing begins with.

They were written by hand from the documented forms; nothing in them was recorded. A session is frames in their order.
"""

from __future__ import annotations

from engine.instruments import Dialect, Instrument

_T = 1_700_000_000_000


def _instrument(
    dialect: Dialect, index: int, symbol: str, price_exp: int, size_exp: int, contract_value: int
) -> Instrument:
    return Instrument(
        index=index, symbol=symbol, base=symbol[:3], quote=symbol[3:6], price_exp=price_exp, size_exp=size_exp,
        tick_size=1, lot_size=1, min_notional=0, venue=3, epoch=1, dialect=dialect, contract_value=contract_value,
    )  # fmt: skip


# Two of each dialect, units as they are in the recordings of it: symbol, decimals of price and size, contract value.
_TERMS: dict[Dialect, tuple[tuple[str, int, int, int], ...]] = {
    Dialect.BINANCE_SPOT: (("NKNUSDT", 8, 8, 0), ("RUNEEUR", 8, 8, 0)),
    Dialect.BINANCE_USDM: (("BTCUSDT", 2, 3, 0), ("ETHUSDT", 2, 3, 0)),
    Dialect.BINANCE_COINM: (("BTCUSD_211231", 1, 0, 10**10), ("LINKUSD_PERP", 3, 0, 10**9)),
    Dialect.KRAKEN_SPOT_V1: (("XBT/CHF", 1, 8, 0), ("XMR/USD", 2, 8, 0)),
    Dialect.KRAKEN_SPOT_V2: (("BTC/CHF", 1, 8, 0), ("XMR/USD", 2, 8, 0)),
    Dialect.KRAKEN_FUTURES: (("PI_ETHUSD", 2, 0, 10**8), ("FI_XBTUSD_210924", 1, 0, 10**8)),
}
INSTRUMENTS = {
    dialect: tuple(_instrument(dialect, index, *terms) for index, terms in enumerate(rows))
    for dialect, rows in _TERMS.items()
}


def _depth(symbol: str, ids: str, levels: str = '"b":[["100.5","2"],["100.4","0"]],"a":[["100.7","1.0"]]') -> str:
    return f'{{"e":"depthUpdate","E":{_T},"T":{_T + 1},"s":"{symbol}",{ids},{levels}}}'


def _body(number: int, extra: str = "") -> str:
    return f'{{"lastUpdateId":{number}{extra},"bids":[["100.5","2"]],"asks":[["100.7","3"],["101","4"]]}}'


def _binance(one: str, other: str, previous: bool) -> tuple[tuple[str, ...], ...]:
    """What the three markets of Binance have in common."""
    def ids(first: int, last: int, before: int) -> str:
        return f'"U":{first},"u":{last}' + (f',"pu":{before}' if previous else "")

    trade = f'{{"e":"trade","E":{_T},"T":{_T},"s":"{one}","t":77,"p":"100.5","q":"2","X":"MARKET","m":true}}'
    aggregate = trade.replace('"trade"', '"aggTrade"').replace('"t":77', '"a":5,"f":78,"l":80').replace("true", "false")
    return (
        (_body(105), _depth(one, ids(101, 110, 100)), _depth(one, ids(111, 115, 110)), _depth(one, ids(111, 115, 110))),
        (_depth(one, ids(101, 104, 100)), _depth(one, ids(105, 110, 104)), _depth(one, ids(130, 131, 129)), _body(104)),
        (_body(105), _depth(one, ids(106, 110, 105)), "", _body(90), _body(200)),
        (_body(105), _depth(one, ids(120, 121, 119)), " " + _body(107), _depth(other, ids(107, 108, 106))),
        (_body(105), _depth(one, ids(100, 102, 99)).replace(str(_T + 1), str(_T + 5000)), _body(106)),
        (_body(105), _depth(one, ids(106, 110, 105), '"b":[],"a":[]')),
        (_body(105), _body(106, ',"E":1700000000000,"T":1700000000001,"symbol":"' + one + '"')),
        (_body(105), _body(90), "", _depth(one, ids(1, 2, 0)), ""),
        (trade, trade, aggregate, trade.replace("77", "81").replace('"2"', "2e0")),
        (f'{{"stream":"x@trade","data":{trade}}}', '{"result":null,"id":1}', "{}", '{"id":1,"result":["x"]}'),
        (f'{{"u":9,"s":"{one}","b":"100.5","B":"1","a":"100.6","A":"2"}}',),
        (_body(105), "\t" + _body(106), "\t " + _body(7)),
        (f'{{"e":"bookTicker","u":9,"s":"{one}","b":"100.5","B":"1","a":"100.6","A":"2","T":{_T},"E":{_T}}}',),
    )


def _futures_of_binance(one: str, other: str) -> tuple[tuple[str, ...], ...]:
    """What the two futures markets have beside it."""
    mark = (
        f'{{"e":"markPriceUpdate","E":{_T},"s":"{one}","p":"100.50000000","P":"100.4","i":"100.25","r":"-0.00002754",'
        f'"T":{_T + 1000}}}'
    )
    order = f'"s":"{other}","S":"SELL","o":"LIMIT","f":"IOC","q":"14","p":"99","ap":"99.1","X":"FILLED","T":{_T}'
    liquidation = f'{{"e":"forceOrder","E":{_T},"o":{{{order}}}}}'
    return (
        (mark, mark.replace('"-0.00002754"', '""'), mark.replace(',"i":"100.25"', "")),
        (liquidation, liquidation.replace("SELL", "BUY").replace('"14"', '"90000"'), liquidation.replace('"T"', '"w"')),
        (f'{{"symbol":"{one}","openInterest":"1234","time":{_T}}}',),
    )


_REST_BOOK = (
    '\t{"error":[],"result":{"XXBTZCHF":{"asks":[["100.60000","0.500",1700000000],["100.7","1.000",1700000001]],'
    '"bids":[["100.40000","2.000",1700000002]]}}}'
)
_V1 = (
    (
        '[320,{"as":[["100.60000","0.50000000","1700000000.000001"]],"bs":[["100.40000","2.00000000","1700000000.5"]]},'
        '"book-25","XBT/CHF"]',
        '[320,{"b":[["100.30000","1.00000000","1700000001.000000"]],"c":"2040672112"},"book-25","XBT/CHF"]',
        '[320,{"a":[["100.60000","0.00000000","1700000001.1"],["100.7","1","1700000001.2","r"]]},'
        '{"b":[["100.2","0","1700000001.3"]],"c":"12"},"book-25","XBT/CHF"]',
    ),
    ('[320,{"as":[],"bs":[]},"book-10","XMR/USD"]', '[320,{"a":[["1","1","1"]]},"book-10","XMR/USD"]', ""),
    ('[9,[["100.1","0.5","1700000000.7","b","m",""],["100.2","1","1700000000.8","s","l",""]],"trade","XMR/USD"]',),
    ('[9,{"a":["100.2",1,"1.5"],"b":["100.1",0,"2.5"],"c":["100.1","1"]},"ticker","XBT/CHF"]',),
    ('[9,["100.1","100.2","1700000000.9","1.5","2.5"],"spread","XBT/CHF"]',),
    (
        '{"connectionID":1,"event":"systemStatus","status":"online","version":"1"}', '{"event":"heartbeat"}',
        '{"event":"systemStatus","status":"post_only"}', '{"event":"systemStatus","status":"maintenance"}',
        '{"event":"systemStatus","status":"cancel_only"}',
    ),
    (
        '{"event":"subscriptionStatus","pair":"XBT/CHF","status":"subscribed","subscription":{"name":"trade"}}',
        '{"event":"subscriptionStatus","status":"error","errorMessage":"no"}', '{"event":"pong","reqid":4}',
        '{"event":"error","errorMessage":"no"}',
    ),
    (_REST_BOOK, _REST_BOOK.replace("\t", "\t "), '\t{"error":["EGeneral:Busy"]}'),
)
_V2 = (
    (
        '{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/CHF","bids":[{"price":100.5,"qty":0.1}],'
        '"asks":[{"price":100.7,"qty":0.00000001},{"qty":1e0,"price":101}],"checksum":3310070434,'
        '"timestamp":"2023-10-06T17:35:55.440295Z"}]}',
        '{"channel":"book","type":"update","data":[{"symbol":"BTC/CHF","bids":[{"price":100.5,"qty":0.0}],"asks":[],'
        '"checksum":1,"timestamp":"2024-02-29T23:59:60Z"}]}',
        '{"channel":"book","type":"snapshot","data":[{"symbol":"XMR/USD","bids":[],"asks":[]}]}',
    ),
    (
        '{"channel":"trade","type":"snapshot","data":[{"symbol":"XMR/USD","side":"sell","price":100.5,"qty":1,'
        '"ord_type":"market","trade_id":8,"timestamp":"2023-09-25T07:49:37.7Z"}]}',
        '{"channel":"trade","type":"update","data":[{"symbol":"XMR/USD","side":"buy","price":100.5,"qty":1,'
        '"trade_id":9,"timestamp":"2023-09-25T07:49:38.123456789Z"},{"symbol":"BTC/CHF","side":"sell","price":1,'
        '"qty":2,"trade_id":9,"timestamp":"2023-09-25T07:49:38Z"}]}',
    ),
    (
        '{"channel":"ticker","type":"update","data":[{"symbol":"BTC/CHF","bid":100.5,"bid_qty":1.5,"ask":100.7,'
        '"ask_qty":0,"last":100.5,"timestamp":"2023-09-25T07:49:38Z"}]}',
    ),
    (
        '{"channel":"status","type":"update","data":[{"version":"2.0.0","system":"online","connection_id":1}]}',
        '{"channel":"status","data":[{"system":"maintenance"}]}', '{"channel":"heartbeat"}', '{"channel":"status"}',
        '{"channel":"status","data":[{"system":"post_only"}]}', '{"channel":"status","data":[{"x":1}]}',
    ),
    (
        '{"method":"subscribe","result":{"channel":"book"},"success":true,"req_id":1}', '{"method":"pong","req_id":4}',
        '{"error":"no","method":"subscribe","success":false,"req_id":1}', '{"channel":"instrument","data":{}}',
        '{"method":"unsubscribe","success":true}', '{"channel":"ohlc","type":"update","data":[]}',
    ),
    (_REST_BOOK,),
)
_FUTURES = (
    (
        '{"feed":"book_snapshot","product_id":"PI_ETHUSD","timestamp":1700000000000,"seq":10,"tickSize":null,'
        '"bids":[{"price":100.5,"qty":6.0},{"price":100.25,"qty":0}],"asks":[{"price":101,"qty":2}]}',
        '{"feed":"book","product_id":"PI_ETHUSD","side":"buy","seq":11,"price":100.5,"qty":3.0,'
        '"timestamp":1700000000100}',
        '{"feed":"book","product_id":"PI_ETHUSD","side":"sell","seq":14,"price":101,"qty":0,"timestamp":1700000000200}',
        '{"feed":"book","product_id":"PI_ETHUSD","side":"sell","seq":15,"price":101,"qty":0,"timestamp":1700000000300}',
        '{"feed":"book_snapshot","product_id":"PI_ETHUSD","timestamp":1,"seq":1,"bids":[],"asks":[]}',
    ),
    (
        '{"feed":"trade_snapshot","product_id":"PI_ETHUSD","trades":[{"feed":"trade","product_id":"PI_ETHUSD",'
        '"side":"buy","type":"fill","seq":5,"time":1700000000000,"qty":2.0,"price":100.5}]}',
        '{"feed":"trade","product_id":"PI_ETHUSD","side":"sell","type":"liquidation","seq":6,"time":1700000000001,'
        '"qty":20000.0,"price":100.5}',
        '{"feed":"trade","product_id":"PI_ETHUSD","side":"sell","type":"assignment","seq":7,"time":1700000000002,'
        '"qty":1,"price":100.5}',
    ),
    (
        '{"time":1700000000000,"product_id":"FI_XBTUSD_210924","feed":"ticker","bid":100.5,"ask":100.6,"bid_size":1.0,'
        '"ask_size":2,"relative_funding_rate":-1.380384722222e-6,"next_funding_rate_time":1700003600000,'
        '"index":100.54,"markPrice":100.55641534714,"openInterest":30072580.0,"suspended":false,"post_only":false}',
        '{"product_id":"FI_XBTUSD_210924","feed":"ticker","bid":null,"suspended":true}',
        '{"product_id":"FI_XBTUSD_210924","feed":"ticker_lite","bid":1.5,"ask":1.6,"post_only":true}',
    ),
    (
        '{"event":"info","version":1}', '{"event":"subscribed","feed":"book","product_ids":["PI_ETHUSD"]}',
        '{"event":"error","message":"no"}', '{"event":"alert","message":"no"}', '{"feed":"heartbeat","time":1}',
        '{"event":"unsubscribed"}',
    ),
)

SESSIONS: dict[Dialect, tuple[tuple[str, ...], ...]] = {
    Dialect.BINANCE_SPOT: _binance("NKNUSDT", "RUNEEUR", previous=False),
    Dialect.BINANCE_USDM: _binance("BTCUSDT", "ETHUSDT", previous=True) + _futures_of_binance("BTCUSDT", "ETHUSDT"),
    Dialect.BINANCE_COINM: _binance("BTCUSD_211231", "LINKUSD_PERP", previous=True)
    + _futures_of_binance("BTCUSD_211231", "LINKUSD_PERP"),
    Dialect.KRAKEN_SPOT_V1: _V1,
    Dialect.KRAKEN_SPOT_V2: _V2,
    Dialect.KRAKEN_FUTURES: _FUTURES,
}
NUMBERS = (
    "0", "1", '"12.340"', "-5", "1e3", '"2.5E-4"', "9223372036854775807", "-0.0", "0.000000000000000000001", '"007"',
    "123456789012345678.5", '"1.500000000000000000000000"', "1.", "e5", '"2023-10-06T17:35:55.440295Z"',
    '"2024-02-29T00:00:60Z"', '"2200-12-31T23:59:59.999999999Z"',
)
