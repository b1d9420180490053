"""How a job's rows are laid out so that they cost the least: which are equal, in what order, padded to what.

Rules of these rooms: columns of texts in, positions and numbers out; how a text is counted is an
argument. Nothing here knows what a row says, and no answer depends on what is decided here: a plan
changes the bill, the keys under which answers are kept stay the same.

``order``: equal rows, orders of fields to begin with; ``field_tokens``: what a field takes in a row;
``groups``: which order is best; ``prefix``: the static beginning, padded to whole blocks of the server's
cache; ``waves``: who leads; ``arrange``: all of that for one job; ``estimate``: what it comes to.
"""
