"""The live console: panes on a running engine, on a terminal.

snapshot.py  what is known of an engine at one moment, plain values
reader.py    maps a running engine read-only and makes snapshots of it (processes.py, market.py, logs.py beside it)
canvas.py    lines of styled text, columns, short numbers
lists.py     lists that are longer than the rows there are for them: what comes first, and the mark
panes*.py    the panes: pure functions of a snapshot, a view and a size
view.py      what the person looks at, keys, and the whole screen; pure as well
actions.py   the two things it may do: pause, kill
terminal.py  curses: putting lines on the terminal, and giving it back as it was
loop.py      reading, drawing and keys in turn

It asks nothing of the engine but the supervisor's socket, and changes nothing but by the two actions.
"""
