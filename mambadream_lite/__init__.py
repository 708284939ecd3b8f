"""MambaDream: Mamba as a world model for markets.

One folder is one part of the book, and imports run left to right only:
``market -> model -> dream -> agent -> judge -> show``.

Tensor legend, used in every shape comment:

======  =====================================================
B       batch: independent paths, contexts or dreams
N       number of dreams or accounts that step together
T       time, in ticks (a tick is one bar)
F       features of a tick (6, see ``market.FEATURES``)
D       model width (``d_model``)
E       inner width of a Mamba block (``expand * d_model``)
S       state size of a Mamba block (``d_state``)
K       mixture components
H       horizon, in ticks
A       actions
======  =====================================================
"""

__version__ = "0.1.0"
