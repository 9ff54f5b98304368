"""The integrity drill: recorded market data with faults through the engine's own kernels, in virtual time, judged.

    told.py       what frames say of books, read with json and Decimal, by code that shares nothing with the kernels
    truth.py      the books as the venue has them: dictionaries
    script.py     a recording made ready, with places to begin at; Kraken's v2 is made from a recording of v1
    side.py       the engine's side: decoder, validation, and the resync that ingestion does
    damage.py     what a fault did to which book, and how long it went unsaid
    parts.py      which part of the feed a fault has met
    aim.py        which faults a seed orders, so that every row of the table is met
    drill.py      one run of a seed; outcome.py holds what came of it

What is asserted is the table of procs/venues/detectability.py, no more and no less: what it calls detectable is said
within its bound, what it calls harmless is never said, and a book that is wrong is called valid only where and for as
long as the table says that nothing can show it.
"""
