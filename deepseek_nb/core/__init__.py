"""The pure rooms: everything here decides, nothing here waits, reads or sends.

Rules of this floor: standard library only; no I/O, no clock, no randomness, no event loop
(time and random numbers are arguments); intra-package imports at the top of the file.
"""
