"""The level-2 order book: layout, far levels, and the operations that stages use."""
